"""Unpacks archives: whole or not at all, and nothing outside the folder that they are unpacked in."""

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")


def unpack(archive: Path, wanted: Sequence[str], into: Path, progress: Progress) -> None:
    """Move the `wanted` files and folders of an archive, and of archives inside it, to `into`.

    What is there already stays; everything else in the archive is thrown away. Raises ValueError, naming the archive,
    when it is damaged, lacks something, or would write elsewhere.
    """
    scratch = into / f".{archive.name}.unpacking"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        _extract(archive, scratch, progress)
        found = {name: _find(archive, scratch, name) for name in wanted}
        os.sync()  # or a power cut could leave files in place that are empty
        for name, path in found.items():
            if not (into / name).exists():
                path.rename(into / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _extract(archive: Path, into: Path, progress: Progress) -> None:
    _one(archive, into, progress)
    while inside := [file for file in sorted(into.rglob("*")) if file.name.endswith(SUFFIXES) and file.is_file()]:
        for inner in inside:
            _one(inner, inner.parent, progress)
            inner.unlink()


def _one(archive: Path, into: Path, progress: Progress) -> None:
    try:
        (_zip if archive.suffix == ".zip" else _tar)(archive, into, progress)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{archive} cannot be unpacked: {error}") from error


def _zip(archive: Path, into: Path, progress: Progress) -> None:
    with zipfile.ZipFile(archive) as content:
        members = content.infolist()
        total, done = sum(member.file_size for member in members), 0
        for member in members:
            _check(archive, member.filename, plain=not stat.S_ISLNK(member.external_attr >> 16))
            content.extract(member, into)
            done += member.file_size
            progress(done, total)


def _tar(archive: Path, into: Path, progress: Progress) -> None:
    size = archive.stat().st_size
    with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as content:
        for member in content:
            _check(archive, member.name, plain=member.isfile() or member.isdir())
            path = into / member.name
            # Not by tarfile's own filter, which the first releases of Python 3.11 have not.
            if (file := content.extractfile(member)) is None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                with file, path.open("wb") as copy:
                    shutil.copyfileobj(file, copy)
            progress(raw.tell(), size)


def _check(archive: Path, name: str, *, plain: bool) -> None:
    """Raise ValueError for an entry that would be written elsewhere, or is neither a file nor a folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not plain:
        raise ValueError(f"{archive} cannot be unpacked: '{name}' leads out of it")


def _find(archive: Path, below: Path, name: str) -> Path:
    """The entry of that name that is nearest to the top, since some archives have a folder around everything."""
    found = sorted(below.rglob(name), key=lambda path: len(path.parts))
    if not found:
        raise ValueError(f"{archive} holds no '{name}'")
    return found[0]
