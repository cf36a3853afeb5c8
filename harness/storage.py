"""Where results and checkpoints stand: a folder of this machine or a shared one, or an object store by its URL."""

import os
import tempfile
from pathlib import Path

from harness.patience import patiently


def at(place: str) -> Path:
    """The folder or file as a path: absolute, or of an object store ('s3://bucket/results')."""
    if not is_remote(place):
        return Path(place).expanduser().resolve()
    from upath import UPath

    return UPath(place)  # type: ignore[return-value]  # has what pathlib.Path has


def is_remote(place: str | Path) -> bool:
    """Whether a place is in an object store."""
    return "://" in str(place)


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
