"""Turns a dataset's samples into files that loaders read at once: written whole or not at all, and checksummed.

What fits in memory becomes `<split>.images.npy` and `<split>.labels.npy`; where FFCV is wanted, and of whole images and
events, `<split>.beton`. `manifest.json`, written last, makes them count. One process writes, however many on however
many machines want the same; one that is killed leaves a hidden folder that the next goes on in, or clears away.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path

import numpy as np

from harness import lock, storage
from harness.contract import DatasetInfo, Sample
from harness.data import disk, prepared
from harness.data.beton import journal
from harness.data.download import Transfer
from harness.data.encode import Progress, already, array_files, beton_file, encode, known_bytes, resumable
from harness.data.prepared import File, Manifest, Prepared
from harness.data.source import SPLITS, Source, find
from harness.data.source import roots as roots

log = logging.getLogger(__name__)


def info(name: str, options: Mapping[str, object] | None = None) -> DatasetInfo:
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
    options: Mapping[str, object] | None = None,
    *,
    beton: bool | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Return the dataset prepared under `$HARNESS_CACHE/prepared`, writing only what is not there yet.

    `beton`: whether to write .beton files of pixels, too; by default only when these do not fit in memory. Processes
    that want the same wait for the one that writes, and an interrupted preparation is gone on with.

    Raises FileNotFoundError when the raw data are missing, ValueError when they are not what the dataset promises,
    OSError when they cannot be downloaded or the disk is full.
    """
    return prepare_source(find(name, options), beton=beton, progress=progress)


def prepare_source(
    source: Source,
    *,
    beton: bool | None = None,
    staged: bool = True,
    progress: Progress | None = None,
    transfer: Transfer | None = None,
) -> Prepared:
    """As `prepare`, for a dataset that has been found.

    `staged`: whether a copy below HARNESS_STAGE will do, too. `transfer` is told of downloads and of checksums.
    """
    wanted = _wanted(source.info, beton)
    found = prepared.find(source, wanted, anywhere=staged)
    while found is None:
        with _lock(source, wanted) as held:
            found = prepared.find(source, wanted, anywhere=staged)
            if found is None and held:
                try:
                    found = _complete(source, wanted, held, progress, transfer)
                except lock.Lost as taken:
                    log.warning("%s: waiting instead", taken)
    return found


def is_prepared(source: Source) -> bool:
    """Whether the dataset can be loaded at once, from whichever of its files."""
    return prepared.find(source, set()) is not None


def partial_folder(folder: Path) -> Path:
    """Where `folder` is written before it is whole."""
    return folder.parent / f".{folder.name}.partial"


def _wanted(info: DatasetInfo, beton: bool | None) -> set[str]:
    """The files that have to be there. `beton` as in `prepare`; whole images and events have no other form."""
    wanted: set[str] = set()
    if info.stored == "pixels" and fits_memory(info):
        wanted.update(*map(array_files, SPLITS))
    if beton or info.stored != "pixels" or (beton is None and not wanted):
        wanted.update(map(beton_file, SPLITS))
    return wanted


@contextmanager
def _lock(source: Source, wanted: set[str]) -> Iterator[lock.Lock | None]:
    """Hold the right to write a dataset's folder; None when another process has written it in the meantime."""
    folder = prepared.folder(source)

    def is_there() -> bool:
        found = prepared.read(folder, warns=False)
        return found is not None and wanted <= found.files.keys()

    with ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            held = stack.enter_context(lock.held(Path(f"{folder}.lock"), f"preparing {source.name}", unless=is_there))
        except OSError as error:
            reason = error.strerror or error
            where = f"cannot write into {folder.parent} ({reason})"
            raise ValueError(f"{where}: set HARNESS_CACHE to another folder") from error
        yield held


def _complete(
    source: Source, wanted: set[str], held: lock.Lock, progress: Progress | None, transfer: Transfer | None
) -> Prepared:
    """Write the wanted files that are not found into a folder beside, then move them into place."""
    folder = prepared.folder(source)
    found, partial = prepared.read(folder), partial_folder(folder)
    kept = found.files if found else {}
    missing = wanted - kept.keys()
    if not resumable(missing):
        shutil.rmtree(partial, ignore_errors=True)
    samples = _samples(source, folder, kept, transfer)
    try:
        with _room(source.info, partial, missing):
            fingerprint = encode(source, samples, partial, missing, progress, held.check)
            if found and fingerprint != found.fingerprint:
                raise ValueError(f"{folder} does not hold what it did when it was prepared: delete it and prepare anew")
            manifest = Manifest(
                dataset=source.name,
                options=source.kept,
                title=source.info.title,
                shape=source.info.shape,
                sizes=dict(source.info.sizes),
                fingerprint=fingerprint,
                files=dict(kept) | {name: _describe(partial / name, transfer) for name in sorted(missing)},
            )
            held.check()
            _move(partial, folder, missing, manifest, anew=found is None)
        return Prepared(folder, source.info, manifest)
    finally:
        if not resumable(missing):
            shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, folder: Path, files: set[str], manifest: Manifest, *, anew: bool) -> None:
    """Put what was written in place; until the last step, nothing of it counts."""
    content = manifest.model_dump_json(indent=1) + "\n"
    if anew:
        storage.write_atomic(partial / prepared.MANIFEST, content)
    for split in SPLITS:
        journal(partial / beton_file(split)).unlink(missing_ok=True)
    if anew:
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        return
    for name in files:
        (partial / name).replace(folder / name)
    storage.write_atomic(folder / prepared.MANIFEST, content)
    shutil.rmtree(partial, ignore_errors=True)


def _samples(
    source: Source, folder: Path, kept: Mapping[str, File], transfer: Transfer | None
) -> Mapping[str, Sequence[Sample]]:
    """The samples of each split: from the arrays that are there, or from the raw data."""
    if not kept.keys() >= {name for split in SPLITS for name in array_files(split)}:
        return source.samples(transfer)
    stored = {}
    for split in SPLITS:
        images, labels = (np.load(folder / name, mmap_mode="r") for name in array_files(split))
        stored[split] = list(zip(images, labels.tolist(), strict=True))
    return stored


@contextmanager
def _room(info: DatasetInfo, partial: Path, files: set[str]) -> Iterator[None]:
    """Refuse to start where the disk is too small, and say how much is missing when it is full."""
    total, known = sum(info.sizes.values()), known_bytes(info, files)

    def there() -> int:
        return sum(file.stat().st_blocks * 512 for file in partial.iterdir())

    def needed() -> str:
        if known is not None:
            return disk.size(known)
        done = already(info, partial, files)
        return f"about {disk.size(there() * total // done)}" if done else "more room"

    with disk.writing(partial.parent, f"preparing {info.title}", needed):
        partial.mkdir(exist_ok=True)
        if known is not None:
            disk.require(partial.parent, known - there(), f"preparing {info.title}")
        yield


def _describe(file: Path, transfer: Transfer | None) -> File:
    with file.open("rb") as content:
        os.fsync(content.fileno())
    size = file.stat().st_size

    def tell(done: int) -> None:
        if transfer:
            transfer(f"checksum of {file.name}", done, size)

    return File(size_bytes=size, sha256=prepared.sha256(file, tell))
