"""CIFAR10-DVS: 10,000 images of CIFAR-10, moved on a screen before a neuromorphic camera of 128x128 pixels.

There is no official split. `first_900`, as in DSR (arXiv:2205.00459): of each class the first 900 recordings are for
training and the last 100 for testing. `random`: any 100 of each class are for testing, which `seed` decides.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.contract import DatasetInfo, Remote, Sample
from harness.formats import events
from harness.formats.lazy import Lazy
from harness.formats.splits import held_out, part

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SENSOR, OF_CLASS, TRAIN_OF_CLASS, TEST_EVERY = 128, 1000, 900, 10
INFO = DatasetInfo(
    title="CIFAR10-DVS",
    shape=(2, SENSOR, SENSOR),
    classes=len(CLASSES),
    sizes={"train": TRAIN_OF_CLASS * len(CLASSES), "test": (OF_CLASS - TRAIN_OF_CLASS) * len(CLASSES)},
    mean=(),
    std=(),
    source="https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671",
    licence="CC BY 4.0",
    citation="Li, Liu, Ji, Li and Shi, CIFAR10-DVS: an event-stream dataset for object classification, "
    "Frontiers in Neuroscience 11, 2017",
    stored="events",
    names=CLASSES,
)
FILES = (
    Remote(
        "CIFAR10DVS/CIFAR10DVS.zip",
        ("https://figshare.com/ndownloader/files/38023437",),
        "md5:ce3a4a0682dc0943703bd8f749a7701c",
        gives=CLASSES,
    ),
)


class Config(BaseModel):
    """Which recordings are for testing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["first_900", "random"] = Field("first_900", description="The last of each class, or any.")
    seed: int | None = Field(None, ge=0, description="Which ones, under `split: random`; by default 0.")

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Self:
        if self.seed is not None and self.split != "random":
            raise ValueError("'seed' belongs to 'split: random'")
        return self


def samples(root: Path, split: str, config: Config) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test' from `root/CIFAR10DVS/<class>/cifar10_<class>_<number>.aedat4`."""
    folder = root / "CIFAR10DVS"
    if not all((folder / name).is_dir() for name in CLASSES):
        raise FileNotFoundError(f"no {CLASSES[0]}/*.aedat4 … {CLASSES[-1]}/*.aedat4 in {folder}")
    files = [file for name in CLASSES for file in sorted((folder / name).glob("*.aedat4"), key=_number)]
    if config.split == "random":
        test = held_out([_label(file) for file in files], TEST_EVERY, config.seed or 0)
    else:  # by their numbers, so that one that is missing moves no other to the other side
        test = np.array([_number(file) >= TRAIN_OF_CLASS for file in files])
    return Lazy(part(files, test, split), _sample)


def _sample(file: Path) -> Sample:
    return events.read_aedat4(file), _label(file)


def _label(file: Path) -> int:
    return CLASSES.index(file.parent.name)


def _number(file: Path) -> int:
    return int(file.stem.rpartition("_")[2])
