"""Folders of images, one for each class below one for each split."""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from harness.contract import Sample
from harness.formats import tars
from harness.formats.lazy import Lazy

Labelled = tuple[str | tars.Entry, int]
"""An image file, or one in an archive, and the number of its class."""

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def images(files: Sequence[Labelled], size: int, shorter_side: int | None = None) -> Sequence[Sample]:
    """Image files with their classes as RGB (3, `size`, `size`), decoded when asked for and cut out as by `fit`."""
    return Lazy(files, partial(_decoded, partial(fit, size=size, shorter_side=shorter_side)))


def whole_images(files: Sequence[Labelled], *, mixed: bool) -> Sequence[Sample]:
    """Image files with their classes as RGB (3, h, w) of their own size, decoded when asked for.

    `mixed`: always in the same random order, so that neighbours are of different classes wherever they are stored.
    """
    if mixed:
        files = [files[index] for index in np.random.default_rng(0).permutation(len(files))]
    return Lazy(files, partial(_decoded, None))


def _decoded(change: Callable[[Image.Image], Image.Image] | None, entry: Labelled) -> Sample:
    file, label = entry
    try:
        with Image.open(io.BytesIO(tars.read(file)) if isinstance(file, tars.Entry) else file) as image:
            colours = image.convert("RGB")
            return np.asarray(change(colours) if change else colours).transpose(2, 0, 1), label  # C H W
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"{file} is not a readable image ({error})") from error


def fit(image: Image.Image, size: int, shorter_side: int | None = None) -> Image.Image:
    """Resize the shorter side to `shorter_side` (by default `size`) and cut `size` pixels out of the middle.

    As torchvision's Resize and CenterCrop do.
    """
    width, height = ((shorter_side or size) * side // min(image.size) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


def split(base: Path) -> Mapping[str, Path]:
    """The folder of each split: `train`, and `test` or else `val`. Raises FileNotFoundError where one is missing."""
    folders = {"train": base / "train", "test": base / ("test" if (base / "test").is_dir() else "val")}
    if not all(folder.is_dir() for folder in folders.values()):
        raise FileNotFoundError(f"no train/<class>/ and test/<class>/ (or val/<class>/) in {base.absolute()}")
    return folders


def classes(folder: Path) -> list[str]:
    """The names of the classes, sorted."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


def files(folder: Path, names: Sequence[str]) -> list[Labelled]:
    """The image files below a split's folder with the numbers of their classes (`names`), sorted by class and path."""
    found: list[Labelled] = [
        (file, label)
        for label, name in enumerate(names)
        for file in sorted(os.path.join(at, file) for at, _, files in os.walk(folder / name) for file in files)
        if file.lower().endswith(SUFFIXES)
    ]
    if not found:
        raise ValueError(f"no images in {folder} (looked for {', '.join(SUFFIXES)})")
    return found
