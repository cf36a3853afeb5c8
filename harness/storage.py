"""Where results and checkpoints stand: a folder of this machine or a shared one, or an object store by its URL.

An object store has no folders and is asked over the network: so nothing is made before it is written, a folder is
listed once instead of asking for each file, and many files are read at the same time.
"""

import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from harness.patience import patiently

PACKAGES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gs"), "gcs": ("gcsfs", "gs")}
"""Scheme of a URL -> the package that speaks it, and our extra that installs it."""
CREDENTIALS = {
    "s3fs": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gcsfs": "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
}
AT_ONCE = 256
"""Objects read at the same time."""


class Unreachable(OSError):
    """An object store that does not answer, or not to us; the message holds no credentials."""


def at(place: str) -> Path:
    """The folder or file as a path: absolute, or of an object store ('s3://bucket/results').

    Raises ValueError in one line for a URL that cannot be used.
    """
    return given(place) if is_remote(place) else Path(place).expanduser().resolve()


def given(place: str) -> Path:
    """The same for what a person has typed: a relative path stays one."""
    if not is_remote(place):
        return Path(place)
    scheme, rest = place.split("://", 1)
    if scheme not in PACKAGES:
        raise ValueError(f"{_public(place)}: '{scheme}://' is not read; use a folder, or s3:// or gs://")
    if "@" in rest.split("/")[0]:
        raise ValueError(f"{_public(place)}: leave credentials out of the URL; {CREDENTIALS[PACKAGES[scheme][0]]}")
    if not rest.strip("/"):
        raise ValueError(f"{place}: which bucket? such as {scheme}://bucket/results")
    # Says itself what it tried, traceback and all; what there is to say, we say.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    with _reached(place):
        from fsspec import get_filesystem_class  # type: ignore[import-untyped]
        from upath import UPath

        get_filesystem_class(scheme)  # imports its package, and asks no server
        # Others write there, too: what was listed once need not be true any more.
        return UPath(place, use_listings_cache=False)  # type: ignore[return-value]  # has what pathlib.Path has


def is_remote(place: str | Path) -> bool:
    """Whether a place is in an object store."""
    return "://" in str(place)


def check(place: str | Path) -> None:
    """Ask an object store whether it is there and lets us in.

    Raises ValueError or Unreachable: one line with the place and what would be right.
    """
    if is_remote(place):
        folder: Any = at(str(place))
        with _reached(str(place)):
            folder.fs.ls(folder.path.split("/")[0])


def names(folder: Path) -> set[str]:
    """Names of the files that stand right in a folder, by one listing; none where there is no folder."""
    if is_remote(folder):
        remote: Any = folder
        with _reached(str(folder)):
            try:
                listed = remote.fs.ls(remote.path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return set()
        return {name.rsplit("/", 1)[-1] for name in listed}
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def files(folder: Path, suffix: str) -> list[Path]:
    """The files below a folder whose names end so, sorted, by one listing."""
    if not is_remote(folder):
        # Thousands of files: paths are slow to glob and to compare.
        below = ((top, name) for top, _, names in os.walk(folder) for name in names if name.endswith(suffix))
        return [Path(top, name) for top, name in sorted(below, key=lambda pair: (*pair[0].split(os.sep), pair[1]))]
    remote: Any = folder
    with _reached(str(folder)):
        found = remote.fs.find(remote.path)
    root = remote.path.rstrip("/") + "/"
    return [folder / name.removeprefix(root) for name in sorted(found) if name.endswith(suffix)]


def contents(paths: Iterable[Path]) -> Iterator[bytes]:
    """What stands in each of the files; of an object store many are read at the same time."""
    left = iter(paths)
    while group := list(islice(left, AT_ONCE)):
        yield from _together(group) if is_remote(group[0]) else (path.read_bytes() for path in group)


def exists(path: Path) -> bool:
    """Whether there is such a file or folder."""
    if not is_remote(path):
        return path.exists()
    with _reached(str(path)):
        return path.exists()


def is_file(path: Path) -> bool:
    """Whether there is such a file."""
    with _reached(str(path)):
        return path.is_file()


@contextmanager
def on_this_machine(path: Path) -> Iterator[Path]:
    """A file that other programs can open: itself, or a copy of what stands in an object store."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy


def make_folder(folder: Path) -> None:
    """Make a folder where there are folders; an object store has none, and would make a bucket of a wrong name."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _together(paths: Sequence[Path]) -> list[bytes]:
    remote: Any = paths[0]
    keys = [path.path for path in paths]  # type: ignore[attr-defined]
    with _reached(str(remote.parent)):
        # Asks for nothing but the contents; cat(), and a range without a start, ask for each object's size first.
        return remote.fs.cat_ranges(keys, [0] * len(keys), [None] * len(keys), on_error="raise")


@contextmanager
def _reached(place: str) -> Iterator[None]:
    """Turn what an object store's packages raise into one line that says which place, and what would be right."""
    try:
        yield
    except (ValueError, Unreachable):
        raise
    except Exception as error:
        raise _translated(place, error) from error


def _translated(place: str, error: Exception) -> Exception:
    package, extra = PACKAGES.get(place.split("://")[0], ("universal-pathlib", ""))
    text, kind = _public(" ".join(str(error).split())), type(error).__name__
    if isinstance(error, ImportError):
        return ValueError(f"{place}: needs the package {package}: pip install 'snn-harness[{extra}]'")
    if isinstance(error, FileNotFoundError):
        # A store speaks of the key; only of a bucket does it say more.
        hint = "; create the bucket or correct its name" if "bucket" in text.lower() else "; is it written right?"
        return ValueError(f"{place}: {text if 'bucket' in text.lower() else 'no such object'}{hint}")
    if "Credential" in kind or "credentials" in text:
        return Unreachable(f"{place}: no credentials were found or accepted; {CREDENTIALS.get(package, '')}")
    if isinstance(error, PermissionError):
        return Unreachable(f"{place}: {text}; may these credentials list, read and write there?")
    where = "AWS_ENDPOINT_URL" if package == "s3fs" else "the network"
    return Unreachable(f"{place}: {kind}: {text}; check {where}, then repeat the command")


def _public(text: str) -> str:
    """The text without user, password and query of every URL in it."""
    return re.sub(r"(://[^\s?]*)\?[^\s\"']*", r"\1", re.sub(r"://[^\s/]*@", "://…@", text))


def write_atomic(target: Path, content: str | bytes) -> None:
    """Replace `target` in one step, so that it is either whole or as it was."""
    data = content.encode() if isinstance(content, str) else content
    patiently(lambda: _put(target, data), str(target))


def _put(target: Path, data: bytes) -> None:
    """Temporary file in the same folder, synced, renamed; an object store replaces an object in one step by itself."""
    if is_remote(target):
        target.write_bytes(data)
        return
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
