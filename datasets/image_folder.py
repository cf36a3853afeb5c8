"""Any folder of images: `train/<class>/…` and `test/<class>/…`, or `val/<class>/…` where there is no `test`."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.contract import DatasetInfo, Sample
from harness.formats import folders

INFO = DatasetInfo(  # `info` fills in what the folder says
    "image folder", (3, 0, 0), 0, {}, folders.IMAGENET_MEAN, folders.IMAGENET_STD,
    source="given by `path`", licence="not stated", citation="not stated",
)  # fmt: skip
READING = ("size", "centre", "mean", "std")  # `size` decides the shape of what is not stored whole, too


class Config(BaseModel):
    """Which folder, and how its images are stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(description="The folder; a relative one is looked for under HARNESS_DATA, then here.")
    size: int = Field(gt=0, description="Pixels of a side: the shorter side becomes this, then the middle is cut out.")
    whole: bool = Field(False, description="Store whole images, of which any part can be shown, at any `size`.")
    centre: float | None = Field(None, gt=0, le=1, description="Of whole images: part of the shorter side to test on.")
    title: str = Field(INFO.title, description="The name that tables print.")
    mean: tuple[float, ...] = Field(INFO.mean, min_length=3, max_length=3, description="Of each channel, in [0, 1].")
    std: tuple[float, ...] = Field(INFO.std, min_length=3, max_length=3, description="Of each channel.")

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Self:
        if self.centre is not None and not self.whole:
            raise ValueError("centre: only for 'whole: true'")
        return self


def samples(root: Path, split: str, config: Config) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test': RGB, sorted by class and path."""
    files = _read(root, config)[1][split]
    return folders.whole_images(files, mixed=split == "train") if config.whole else folders.images(files, config.size)


def info(root: Path, config: Config) -> DatasetInfo:
    """The facts of the folder as it is now. Its checksum is over names, sizes and times, which are quick to read."""
    listing = hashlib.sha256()
    classes, files = _read(root, config)
    for file, _ in files["train"] + files["test"]:
        status = os.stat(str(file))
        listing.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    return replace(
        INFO,
        **config.model_dump(include={"title", "mean", "std"}),
        shape=(3, config.size, config.size),
        classes=len(classes),
        names=tuple(classes),
        sizes={split: len(chosen) for split, chosen in files.items()},
        checksums={"listing": f"sha256:{listing.hexdigest()}"},
        stored="images" if config.whole else "pixels",
        centre=config.centre or INFO.centre,
    )


def _read(root: Path, config: Config) -> tuple[list[str], dict[str, list[folders.Labelled]]]:
    """The names of the classes, and for each split its image files with the numbers of their classes."""
    path = Path(config.path).expanduser()
    base = root / path if (root / path).is_dir() else path
    splits = folders.split(base)
    classes, test = (folders.classes(folder) for folder in splits.values())
    if unknown := sorted({*test} - {*classes}):
        raise ValueError(f"{splits['test']} has classes that {splits['train']} has not: {', '.join(unknown[:5])}")
    return classes, {split: folders.files(folder, classes) for split, folder in splits.items()}
