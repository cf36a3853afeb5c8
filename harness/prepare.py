"""Turns a dataset's samples into files that loaders read at once: written whole or not at all, and checksummed.

Everything is decoded once. What fits in memory becomes `<split>.images.npy` and `<split>.labels.npy`; where FFCV is
wanted, `<split>.beton`. Both hold the same uint8 pixels; `manifest.json`, written last, makes them count.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from harness import record
from harness.beton import journal
from harness.contract import DatasetInfo, Sample
from harness.encode import Progress, array_files, beton_file, encode, resumable
from harness.source import SPLITS, Source, cache, find
from harness.source import roots as roots

FORMAT = 2

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


@dataclass(frozen=True)
class Prepared:
    """A dataset that is ready to be loaded."""

    folder: Path
    info: DatasetInfo
    manifest: Manifest

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint


def info(name: str, options: Mapping[str, Any] | None = None) -> DatasetInfo:
    """The facts of a dataset, without preparing it."""
    return find(name, options).info


def memory_limit_bytes() -> int:
    """How much decoded data is kept in memory: HARNESS_MEMORY_LIMIT in bytes, by default 2 GiB."""
    given = os.environ.get("HARNESS_MEMORY_LIMIT") or str(2 << 30)
    if not given.isdecimal():
        raise ValueError(f"HARNESS_MEMORY_LIMIT is a number of bytes, not '{given}'")
    return int(given)


def decoded_bytes(info: DatasetInfo, time_steps: int = 1) -> int:
    """What all samples take as uint8, frames of events at that many time steps."""
    return sum(info.sizes.values()) * prod(info.shape) * (time_steps if info.temporal else 1)


def fits_memory(info: DatasetInfo, time_steps: int = 1) -> bool:
    return decoded_bytes(info, time_steps) <= memory_limit_bytes()


def prepare(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    beton: bool | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Return the dataset prepared under `$HARNESS_CACHE/prepared`, writing only what is not there yet.

    `beton`: whether to write .beton files of pixels, too; by default only when these do not fit in memory. Two
    processes that want the same wait for each other, and an interrupted preparation is gone on with.

    Raises FileNotFoundError when the raw data are missing, ValueError when they are not what the dataset promises.
    """
    return prepare_source(find(name, options), beton=beton, progress=progress)


def prepare_source(source: Source, *, beton: bool | None = None, progress: Progress | None = None) -> Prepared:
    """As `prepare`, for a dataset that has been found."""
    info = source.info
    wanted = _wanted(info, beton)
    folder = _folder(source)
    found = _read(folder)
    if found is None or not wanted <= found.files.keys():
        with _lock(folder):
            found = _read(folder)
            if found is None or not wanted <= found.files.keys():
                found = _complete(source, folder, wanted, found, progress)
    return Prepared(folder, info, found)


def verify(prepared: Prepared) -> list[str]:
    """Read every file and return what is wrong with it, a sentence each; nothing wrong gives an empty list."""
    problems = []
    for name, expected in prepared.manifest.files.items():
        file = prepared.folder / name
        if not file.is_file():
            problems.append(f"{file} is missing")
        elif file.stat().st_size != expected.size_bytes:
            problems.append(f"{file} has {file.stat().st_size} bytes instead of {expected.size_bytes}")
        elif _sha256(file) != expected.sha256:
            problems.append(f"{file} does not have the checksum it was written with")
    return problems


def is_prepared(source: Source) -> bool:
    """Whether the dataset can be loaded at once, from whichever of its files."""
    return _read(_folder(source)) is not None


def _folder(source: Source) -> Path:
    return cache() / "prepared" / f"{source.name}-{_key(source)}"


def _wanted(info: DatasetInfo, beton: bool | None) -> set[str]:
    """The files that have to be there. `beton` as in `prepare`; whole images and events have no other form."""
    wanted: set[str] = set()
    if info.stored == "pixels" and fits_memory(info):
        wanted.update(*map(array_files, SPLITS))
    if beton or info.stored != "pixels" or (beton is None and not wanted):
        wanted.update(map(beton_file, SPLITS))
    return wanted


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


def _read(folder: Path) -> Manifest | None:
    """The manifest of a finished folder; None when there is none or a file of it is missing or cut short."""
    try:
        manifest = Manifest.model_validate_json((folder / "manifest.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError:
        log.warning("%s has an unreadable manifest and is prepared anew", folder)
        return None
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != expected.size_bytes:
            log.warning("%s is damaged (%s) and is prepared anew", folder, name)
            return None
    return manifest


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the right to write `folder`; the system takes it back when the process dies."""
    lock = Path(f"{folder}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"cannot write into {folder.parent} ({reason}): set HARNESS_CACHE to another folder"
        ) from error
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _complete(
    source: Source, folder: Path, wanted: set[str], found: Manifest | None, progress: Progress | None
) -> Manifest:
    """Write the wanted files that are not found into a folder beside, then move them into place."""
    info = source.info
    partial = folder.parent / f".{folder.name}.partial"
    if not resumable(info):
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(exist_ok=True)
    try:
        kept = found.files if found else {}
        arrays = {name for split in SPLITS for name in array_files(split)} <= kept.keys()
        samples = {split: _stored(folder, split) for split in SPLITS} if arrays else source.samples()
        fingerprint = encode(source, samples, partial, wanted - kept.keys(), progress)
        if found and fingerprint != found.fingerprint:
            raise ValueError(f"{folder} does not hold what it did when it was prepared: delete it and prepare anew")
        for split in SPLITS:
            journal(partial / beton_file(split)).unlink(missing_ok=True)
        manifest = Manifest(
            dataset=source.name,
            options=source.kept,
            title=info.title,
            shape=info.shape,
            sizes=dict(info.sizes),
            fingerprint=fingerprint,
            files=dict(kept) | {file.name: _describe(file) for file in sorted(partial.iterdir())},
        )
        content = manifest.model_dump_json(indent=1) + "\n"
        if found:
            for file in partial.iterdir():
                file.replace(folder / file.name)
            record.write_atomic(folder / "manifest.json", content)
        else:
            record.write_atomic(partial / "manifest.json", content)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        return manifest
    finally:
        if not resumable(info):
            shutil.rmtree(partial, ignore_errors=True)


def _stored(folder: Path, split: str) -> Sequence[Sample]:
    """The samples of a split as they stand in its array files."""
    images, labels = (np.load(folder / name, mmap_mode="r") for name in array_files(split))
    return list(zip(images, labels.tolist(), strict=True))


def _describe(file: Path) -> File:
    with file.open("rb") as content:
        os.fsync(content.fileno())
    return File(size_bytes=file.stat().st_size, sha256=_sha256(file))


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
