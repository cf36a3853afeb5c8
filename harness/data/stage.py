"""Copies prepared data to the local disks of the machines that train, once, and checks the copies."""

import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness import cluster, lock, storage
from harness.data import disk, prepared
from harness.data.download import CHUNK_BYTES
from harness.data.prepared import MANIFEST, Bytes, Manifest
from harness.progress import Counts


@dataclass(frozen=True)
class Staged:
    """What came out on one machine."""

    node: str
    folder: str
    copied_bytes: int = 0
    """0 when everything was there already."""
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        done = f"copied {disk.size(self.copied_bytes)}" if self.copied_bytes else "was there already"
        return f"{self.node}: {self.problem or f'{self.folder} ({done})'}"


def everywhere(origin: Path, root: Path, counts: Counts) -> Iterator[Staged]:
    """Have a copy of the prepared folder `origin` below `root` on every node of the cluster, or on this machine.

    A node where that fails is one with a problem; the others get their copies all the same.
    """
    if not cluster.is_given():
        yield Staged(socket.gethostname(), *copy(origin, root, partial(counts.transfer, f"copying to {root}")))
        return
    nodes = cluster.on_every_node(copy, origin, root)
    show = counts.items("nodes with a copy")
    for done, (node, outcome) in enumerate(nodes, start=1):
        if isinstance(outcome, Exception):
            yield Staged(node, str(prepared.below(root, origin.name)), problem=str(outcome))
        else:
            yield Staged(node, *outcome)
        show(done, nodes.total)


def copy(origin: Path, root: Path, progress: Bytes | None = None) -> tuple[str, int]:
    """Have a checked copy of the prepared folder `origin` below `root`; where it is, and the bytes copied.

    Does nothing when it is there. Goes on with what an interrupted copy has finished; nothing counts before all is
    right. Raises FileNotFoundError when `origin` is not there, ValueError when what it holds is damaged.
    """
    manifest, target = _manifest(origin), prepared.below(root, origin.name)
    if target.resolve() == origin.resolve():
        raise ValueError(f"{target} is the original itself: choose another folder than {root}")

    def is_there() -> bool:
        return prepared.read(target, warns=False) == manifest

    if is_there():
        return str(target), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with lock.held(Path(f"{target}.lock"), f"copying {origin.name}", unless=is_there):
        return str(target), 0 if is_there() else _copied(origin, target, manifest, progress)


def _copied(origin: Path, target: Path, manifest: Manifest, progress: Bytes | None) -> int:
    """The bytes that had to be copied."""
    unfinished, what = target.parent / f".{target.name}.partial", f"the copy of {origin.name}"
    advice = "free some, or choose another folder"
    with disk.writing(target.parent, what, lambda: disk.size(manifest.size_bytes), advice=advice):
        unfinished.mkdir(exist_ok=True)
        missing = {name: file for name, file in manifest.files.items() if not _is(unfinished / name, file)}
        total = sum(file.size_bytes for file in missing.values())
        disk.require(target.parent, total, what, advice=advice)
        done = 0
        for name, file in missing.items():
            for more in _pieces(origin / name, unfinished / name):
                done += more
                if progress:
                    progress(done, total)
            if not _is(unfinished / name, file):
                raise ValueError(f"{unfinished / name} differs from what was prepared: see `harness data verify`")
        storage.write_atomic(unfinished / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    return total


def _pieces(source: Path, to: Path) -> Iterator[int]:
    """Copy a file; yields how many bytes were copied, piece by piece."""
    with source.open("rb") as content, to.open("wb") as copy:
        while piece := content.read(CHUNK_BYTES):
            copy.write(piece)
            yield len(piece)
        disk.sync(copy)


def _is(file: Path, expected: prepared.File) -> bool:
    return file.is_file() and file.stat().st_size == expected.size_bytes and prepared.sha256(file) == expected.sha256


def _manifest(origin: Path) -> Manifest:
    try:
        return prepared.manifest_of(origin)
    except FileNotFoundError as error:
        host = socket.gethostname()
        raise FileNotFoundError(f"{host} does not see {origin}: HARNESS_CACHE has to be on a shared disk") from error
