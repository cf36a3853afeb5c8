"""Any folder of images: `train/<class>/…` and `test/<class>/…`, or `val/<class>/…` where there is no `test`."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from harness.contract import DatasetInfo, Sample

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INFO = DatasetInfo(  # `info` fills in what the folder says
    "image folder", (3, 0, 0), 0, False, {}, IMAGENET_MEAN, IMAGENET_STD, "given by `path`", "not stated", "not stated"
)


class Config(BaseModel):
    """Which folder, and how its images are stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(description="The folder; a relative one is looked for under HARNESS_DATA, then here.")
    size: int = Field(gt=0, description="Pixels: the shorter side becomes this, then the middle is cut out.")
    title: str = Field(INFO.title, description="The name that tables print.")
    mean: tuple[float, ...] = Field(INFO.mean, min_length=3, max_length=3, description="Of each channel, in [0, 1].")
    std: tuple[float, ...] = Field(INFO.std, min_length=3, max_length=3, description="Of each channel.")


class Images(Sequence[Sample]):
    """The images of one split, decoded when asked for."""

    def __init__(self, files: Sequence[tuple[str, int]], size: int):
        self._files, self._size = files, size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        file, label = self._files[index]
        try:
            with Image.open(file) as image:
                return np.asarray(fit(image.convert("RGB"), self._size)).transpose(2, 0, 1), label  # C H W
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise ValueError(f"{file} is not a readable image ({error})") from error


def samples(root: Path, split: str, config: Config) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test': RGB, sorted by class and path."""
    return Images(_read(root, config)[1][split], config.size)


def info(root: Path, config: Config) -> DatasetInfo:
    """The facts of the folder as it is now. Its checksum is over names, sizes and times, which are quick to read."""
    listing = hashlib.sha256()
    classes, files = _read(root, config)
    for file, _ in files["train"] + files["test"]:
        status = os.stat(file)
        listing.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    return replace(
        INFO,
        **config.model_dump(include={"title", "mean", "std"}),
        shape=(3, config.size, config.size),
        classes=len(classes),
        sizes={split: len(chosen) for split, chosen in files.items()},
        checksums={"listing": f"sha256:{listing.hexdigest()}"},
    )


def fit(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to `size` and cut out the middle, as torchvision's Resize and CenterCrop do."""
    width, height = (size * side // min(image.size) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


def _read(root: Path, config: Config) -> tuple[list[str], dict[str, list[tuple[str, int]]]]:
    """The names of the classes, and for each split its image files with the numbers of their classes."""
    path = Path(config.path).expanduser()
    base = root / path if (root / path).is_dir() else path
    folders = {"train": base / "train", "test": base / ("test" if (base / "test").is_dir() else "val")}
    if not all(folder.is_dir() for folder in folders.values()):
        raise FileNotFoundError(f"no train/<class>/ and test/<class>/ (or val/<class>/) in {base.absolute()}")
    classes, test = (sorted(e.name for e in os.scandir(folder) if e.is_dir()) for folder in folders.values())
    if classes != test:
        raise ValueError(f"train and test in {base} differ in the classes {sorted({*classes} ^ {*test})[:5]}")
    found: dict[str, list[tuple[str, int]]] = {split: [] for split in folders}
    for split, folder in folders.items():
        for label, name in enumerate(classes):
            files = sorted(os.path.join(at, file) for at, _, files in os.walk(folder / name) for file in files)
            found[split] += [(file, label) for file in files if file.lower().endswith(SUFFIXES)]
        if not found[split]:
            raise ValueError(f"no images in {folder} (looked for {', '.join(SUFFIXES)})")
    return classes, found
