"""Noise: random images, whole ones, or random events, of any shape: for trying things out and for measuring speed.

Classes are as random as the pixels, so nothing can be learnt from it but by heart.
"""

from collections.abc import Sequence
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from harness.contract import DatasetInfo, Sample, Stored
from harness.formats.events import EVENT
from harness.formats.lazy import Lazy

INFO = DatasetInfo(  # `info` fills in what the options say
    "noise", (3, 32, 32), 10, {"train": 512, "test": 128}, (0.5,) * 3, (0.2898,) * 3,
    source="drawn here", licence="none needed", citation="none",
)  # fmt: skip
EVENTS_PER_CELL, DURATION_US = 2, 100_000


class Config(BaseModel):
    """What the noise looks like."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, int, int] = Field(INFO.shape, description="Channels, height and width.")
    classes: int = Field(INFO.classes, ge=2, description="Number of classes.")
    temporal: bool = Field(False, description="Events instead of still images; of two channels, the polarities.")
    whole: bool = Field(False, description="Images of different sizes, to be cropped to the shape when they are read.")
    train: int = Field(INFO.sizes["train"], ge=1, description="Number of training samples.")
    test: int = Field(INFO.sizes["test"], ge=1, description="Number of test samples.")
    seed: int = Field(0, ge=0, description="Another seed, other noise.")
    title: str = Field(INFO.title, description="The name that tables print.")


def samples(root: Path, split: str, config: Config) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test'. `root` is not looked at."""
    return Lazy(range(config.train if split == "train" else config.test), partial(_drawn, config, split))


def info(root: Path, config: Config) -> DatasetInfo:
    """The facts as the options say."""
    channels = config.shape[0]
    stored: Stored = "events" if config.temporal else "images" if config.whole else "pixels"
    if config.temporal and (config.whole or channels != 2):
        raise ValueError(f"noise: events have 2 polarities and are not whole images; given: {config}")
    if config.whole and channels != 3:
        raise ValueError(f"noise: whole images have 3 channels, not {channels}")
    return DatasetInfo(
        title=config.title, shape=config.shape, classes=config.classes, stored=stored,
        sizes={"train": config.train, "test": config.test},
        mean=() if config.temporal else INFO.mean[:1] * channels,
        std=() if config.temporal else INFO.std[:1] * channels,
        source=INFO.source, licence=INFO.licence, citation=INFO.citation,
    )  # fmt: skip


def _drawn(config: Config, split: str, index: int) -> Sample:
    """A sample that is always the same."""
    random = np.random.default_rng([config.seed, split == "test", index])
    label = int(random.integers(config.classes))
    if not config.temporal:
        larger = random.integers(0, 1 + np.array(config.shape[1:]) // 4) if config.whole else (0, 0)
        shape = (config.shape[0], config.shape[1] + larger[0], config.shape[2] + larger[1])
        return random.integers(0, 256, shape, dtype=np.uint8), label
    events = np.empty(EVENTS_PER_CELL * prod(config.shape), EVENT)
    events["t"] = np.sort(random.integers(0, DURATION_US, len(events)))
    for name, side in zip("pyx", config.shape, strict=True):
        events[name] = random.integers(0, side, len(events))
    return events, label
