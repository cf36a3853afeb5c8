"""Prepared data as they lie on a disk: where, what a finished folder holds, and whether it still does."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.contract import DatasetInfo
from harness.data.download import checksum
from harness.data.source import Source, cache

Bytes = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

FORMAT = 2
MANIFEST = "manifest.json"

log = logging.getLogger(__name__)


class File(BaseModel):
    """One prepared file."""

    size_bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a prepared folder holds."""

    format: int = FORMAT
    dataset: str
    options: dict[str, Any]
    title: str
    shape: tuple[int, ...]
    sizes: dict[str, int]
    fingerprint: str
    """Hash of the decoded pixels and labels in order; the same whichever files exist."""
    files: dict[str, File]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())


@dataclass(frozen=True)
class Prepared:
    """A dataset that is ready to be loaded."""

    folder: Path
    info: DatasetInfo
    manifest: Manifest

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint


def folder(source: Source) -> Path:
    """Where a dataset is prepared."""
    return below(cache(), f"{source.name}-{_key(source)}")


def below(root: Path, name: str) -> Path:
    """Where the prepared folder of that name stands below a root."""
    return root / "prepared" / name


def staged(source: Source) -> Path | None:
    """Where a copy on this machine's own disk is looked for first: below HARNESS_STAGE, if that is set."""
    given = os.environ.get("HARNESS_STAGE")
    return below(Path(given).expanduser(), folder(source).name) if given else None


def find(source: Source, wanted: set[str], *, anywhere: bool = True) -> Prepared | None:
    """The prepared data if all wanted files are there and as long as they should be: staged, or in the cache.

    Unless `anywhere`, only in the cache.
    """
    for place in (staged(source) if anywhere else None, folder(source)):
        found = read(place) if place else None
        if place and found and wanted <= found.files.keys():
            return Prepared(place, source.info, found)
    return None


def read(folder: Path, *, warns: bool = True) -> Manifest | None:
    """The manifest of a finished folder; None when there is none or a file of it is missing or cut short."""
    level = logging.WARNING if warns else logging.DEBUG
    try:
        manifest = manifest_of(folder)
    except FileNotFoundError:
        return None
    except ValueError:
        log.log(level, "%s has an unreadable manifest and is made anew", folder)
        return None
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != expected.size_bytes:
            log.log(level, "%s is damaged (%s) and is made anew", folder, name)
            return None
    return manifest


def manifest_of(folder: Path) -> Manifest:
    """What a folder says that it holds. Raises FileNotFoundError when it was not finished, ValueError for nonsense."""
    file = folder / MANIFEST
    try:
        return Manifest.model_validate_json(file.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"no {MANIFEST} in {folder}") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a manifest of prepared data") from error


def check(source: Source, progress: Callable[[Path], Bytes]) -> dict[Path, list[str]]:
    """What is wrong with each folder in which the dataset was prepared or staged; empty when there is none."""
    found = {}
    for place in (staged(source), folder(source)):
        if place and place.exists():
            try:
                found[place] = verify(place, manifest_of(place), progress(place))
            except (FileNotFoundError, ValueError) as error:
                found[place] = [str(error)]
    return found


def verify(folder: Path, manifest: Manifest, progress: Bytes | None = None) -> list[str]:
    """Read every file and return what is wrong with it, a sentence each; nothing wrong gives an empty list."""
    problems, before = [], 0
    for name, expected in manifest.files.items():
        found = _problem(folder / name, expected, partial(_ahead, progress, before, manifest.size_bytes))
        problems += [found] if found else []
        before += expected.size_bytes
    return problems


def _problem(file: Path, expected: File, tell: Callable[[int], None]) -> str | None:
    try:
        if file.exists() and not file.is_file():
            return f"{file} is not a file"
        size = file.stat().st_size
        if size != expected.size_bytes:
            return f"{file} has {size} bytes instead of {expected.size_bytes}"
        return (
            None if sha256(file, tell) == expected.sha256 else f"{file} does not have the checksum it was written with"
        )
    except FileNotFoundError:
        return f"{file} is missing"
    except OSError as error:
        return f"{file} cannot be read ({error.strerror})"


def _ahead(progress: Bytes | None, before: int, total: int, done: int) -> None:
    if progress:
        progress(before + done, total)


def sha256(file: Path, tell: Callable[[int], None] = lambda done: None) -> str:
    """The checksum of a file in hexadecimal digits; `tell` is called with the bytes read."""
    return checksum(file, "sha256", lambda done, total: tell(done)).partition(":")[2]


def _key(source: Source) -> str:
    """Twelve hexadecimal digits that depend on everything that the files depend on."""
    info = source.info
    content = {
        "format": FORMAT,
        "options": source.kept,
        "stored": info.stored,
        "shape": info.shape if info.stored != "images" else None,
        "classes": info.classes,
        "sizes": dict(info.sizes),
        "checksums": dict(info.checksums),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
