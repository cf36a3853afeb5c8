"""Finds a dataset's raw files: under HARNESS_DATA, in the cache, or on the network."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from harness import plugins
from harness.contract import DatasetInfo, Sample

SPLITS = ("train", "test")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A dataset with its options, wherever its raw files are."""

    name: str
    module: ModuleType
    config: BaseModel | None

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the dataset, defaults filled in."""
        return self.config.model_dump(mode="json") if self.config else {}

    @cached_property
    def info(self) -> DatasetInfo:
        """The dataset's facts; where they depend on its files, these are looked at."""
        if not hasattr(self.module, "info"):
            return self.module.INFO
        return self._first_root(lambda root: self.module.info(root, self.config))

    def is_here(self) -> bool:
        """Whether the raw files are on this machine."""
        try:
            self._first_root(self._open)
        except FileNotFoundError:
            return False
        return True

    def samples(self) -> dict[str, Sequence[Sample]]:
        """The samples of each split, from HARNESS_DATA or else from the cache, downloaded if need be.

        Raises FileNotFoundError that says what to do when they are nowhere.
        """
        try:
            return self._first_root(self._open)
        except FileNotFoundError:
            if not hasattr(self.module, "download"):
                raise
        root = cache() / "raw"
        root.mkdir(parents=True, exist_ok=True)
        log.info("downloading %s into %s", self.name, root)
        try:
            self.module.download(root)
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise FileNotFoundError(
                f"{self.name} is not here and could not be downloaded ({reason}): set HARNESS_DATA to a folder that "
                f"holds it, or run `harness data prepare {self.name}` where there is a network"
            ) from error
        return self._open(root)

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


def find(name: str, options: Mapping[str, Any] | None = None) -> Source:
    """The dataset of that name with these options checked.

    Raises ValueError for an unknown name or option.
    """
    module = plugins.load("datasets", name)
    if not hasattr(module, "Config"):
        if options:
            raise ValueError(f"dataset '{name}' takes no options (given: {', '.join(options)})")
        return Source(name, module, None)
    try:
        return Source(name, module, module.Config(**(options or {})))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise ValueError(f"dataset '{name}': {'; '.join(problems)}") from error
