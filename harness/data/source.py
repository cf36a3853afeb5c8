"""Finds a dataset's raw files: under HARNESS_DATA, in the cache, or on the network."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from harness import plugins
from harness.config import Augment, DatasetBlock, Frames, Store
from harness.contract import DatasetInfo, Remote, Sample
from harness.data import disk, download
from harness.data.download import Transfer

SPLITS = ("train", "test")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A dataset with its options, wherever its raw files are."""

    name: str
    module: ModuleType
    config: BaseModel | None
    store: Store
    """How whole images are kept."""

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the dataset, defaults filled in."""
        return self.config.model_dump(mode="json") if self.config else {}

    @property
    def kept(self) -> dict[str, Any]:
        """Options that decide what is in the prepared file."""
        reading = getattr(self.module, "READING", ())
        options = {key: value for key, value in self.options.items() if key not in reading}
        return options | ({"store": self.store.model_dump()} if self.info.stored == "images" else {})

    @cached_property
    def info(self) -> DatasetInfo:
        """The dataset's facts; where they depend on its files, these are looked at."""
        if not hasattr(self.module, "info"):
            return self.module.INFO
        return self._first_root(lambda root: self.module.info(root, self.config))

    def root(self) -> Path | None:
        """The root below which the raw files are; None when they are not on this machine."""
        return next(filter(self.is_below, roots()), None)

    def is_below(self, root: Path) -> bool:
        """Whether the raw files are found with this root."""
        try:
            self._open(root)
        except FileNotFoundError:
            return False
        return True

    def is_here(self) -> bool:
        """Whether the raw files are on this machine."""
        return self.root() is not None

    @property
    def files(self) -> tuple[Remote, ...]:
        """The official files that can be downloaded."""
        return getattr(self.module, "FILES", ())

    def samples(self, transfer: Transfer | None = None) -> dict[str, Sequence[Sample]]:
        """The samples of each split, from HARNESS_DATA or else from the cache, downloaded if need be.

        Raises FileNotFoundError that says what to do when they are nowhere, OSError when they cannot be downloaded.
        """
        try:
            return self._first_root(self._open)
        except FileNotFoundError:
            if not (self.files or hasattr(self.module, "download")):
                raise
        root = cache() / "raw"
        root.mkdir(parents=True, exist_ok=True)
        log.info("downloading %s into %s", self.name, root)
        try:
            for remote in self.files:
                download.fetch(remote, root, elsewhere=roots(), transfer=transfer)
            if not self.files:
                self.module.download(root)
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1]
            if isinstance(error, disk.NoSpace):
                raise disk.NoSpace(f"{self.name}: {reason}") from error
            raise download.DownloadError(
                f"{self.name} is not here and could not be downloaded ({reason}): set HARNESS_DATA to a folder that "
                f"holds it, or run `harness data prepare {self.name}` where there is a network"
            ) from error
        try:
            return self._open(root)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}: delete what is there of it to have it downloaded anew") from error

    def _open(self, root: Path) -> dict[str, Sequence[Sample]]:
        given = () if self.config is None else (self.config,)
        return {split: self.module.samples(root, split, *given) for split in SPLITS}

    def _first_root(self, read: Callable[[Path], Any]) -> Any:
        missing = []
        for root in roots():
            try:
                return read(root)
            except FileNotFoundError as error:
                missing.append(str(error))
        raise FileNotFoundError(f"{self.name}: {'; '.join(missing)}; set HARNESS_DATA to the folder that holds it")


def cache() -> Path:
    """Where prepared and downloaded data are kept: HARNESS_CACHE, by default ~/.cache/snn-harness."""
    return Path(os.environ.get("HARNESS_CACHE") or "~/.cache/snn-harness").expanduser()


def roots() -> list[Path]:
    """Where raw data are looked for: HARNESS_DATA, which may be read-only, then the cache."""
    given = os.environ.get("HARNESS_DATA")
    return [*([Path(given).expanduser()] if given else []), cache() / "raw"]


def of(block: DatasetBlock) -> Source:
    """The dataset that an experiment names. Raises ValueError for an unknown name or option."""
    return find(block.name, block.options, block.store)


def seen(info: DatasetInfo, block: DatasetBlock) -> DatasetInfo:
    """The facts of the data as a network sees them: frames as the experiment makes them of events.

    Raises ValueError, naming the key, for settings that have no effect on these data or do not fit them.
    """
    _refuse_idle(info, block)
    if info.stored != "events":
        return info
    frames = block.frames
    sides = info.shape[1:]
    if any(side % frames.downsample for side in sides):
        raise ValueError(f"frames.downsample: {frames.downsample} does not divide {sides[0]} x {sides[1]} pixels")
    height, width = (frames.size or side // frames.downsample for side in sides)
    return replace(info, shape=(frames.polarities, height, width))


def _refuse_idle(info: DatasetInfo, block: DatasetBlock) -> None:
    """Raise ValueError for a setting that would be ignored."""
    only = {
        "frames": ("events", block.frames != Frames()),
        "store": ("images", block.store != Store()),
        "augment.random_resized_crop": ("images", block.augment.random_resized_crop is not None),
        "augment.event_drop": ("events", block.augment.event_drop != Augment().event_drop),
    }
    for key, (stored, given) in only.items():
        if given and info.stored != stored:
            raise ValueError(f"{key}: no effect on {info.title}, which is not stored as {STORED[stored]}")
    if block.normalize and info.temporal:
        raise ValueError(f"normalize: no effect on {info.title}, whose frames are counts of events and stay so")
    channels = info.shape[0]
    if block.normalize and {len(block.normalize.mean), len(block.normalize.std)} != {channels}:
        raise ValueError(f"normalize: one mean and one std for each channel are needed; {info.title} has {channels}")


STORED = {"images": "whole images", "events": "events"}


def find(name: str, options: Mapping[str, Any] | None = None, store: Store | None = None) -> Source:
    """The dataset of that name with these options checked.

    Raises ValueError for an unknown name or option.
    """
    module = plugins.load("datasets", name)
    if not hasattr(module, "Config"):
        if options:
            raise ValueError(f"dataset '{name}' takes no options (given: {', '.join(options)})")
        return Source(name, module, None, store or Store())
    try:
        return Source(name, module, module.Config(**(options or {})), store or Store())
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise ValueError(f"dataset '{name}': {'; '.join(problems)}") from error
