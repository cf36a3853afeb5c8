"""What a trial goes on from while it runs, and what it leaves: files in its own folder, whole or known not to be.

A file ends with a digest of what stands before it, which torch.load takes no notice of. Where the state is damaged, the
one before it is taken; two files are kept, for a crash or a bad disk can hit the one that is being written.
"""

import hashlib
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness import storage
from harness.patience import patiently

LAST, BEFORE, WEIGHTS = "last.pt", "before_last.pt", "weights.pt"
UNFINISHED = ".new"
MARK = b"\nsha256:"
TAIL_BYTES = len(MARK) + 64

log = logging.getLogger(__name__)


class Damaged(ValueError):
    """A file is not what was written."""


def exists(folder: Path) -> bool:
    """Whether there is a state to go on from, maybe a damaged one."""
    return any((folder / name).exists() for name in (LAST, BEFORE))


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Keep the state to go on from, of tensors and plain values, and the one before it."""
    last, before, new = (folder / name for name in (LAST, BEFORE, f"{LAST}{UNFINISHED}"))
    if storage.is_remote(folder):  # an object store replaces in one step when it writes, but cannot rename
        if last.exists():
            patiently(lambda: last.fs.copy(last.path, before.path), str(before))  # type: ignore[attr-defined]
        _write(last, state)
        return
    _write(new, state)
    if last.exists():
        patiently(lambda: last.replace(before), str(before))
    patiently(lambda: new.replace(last), str(last))


def load_bytes(folder: Path) -> bytes | None:
    """The state to go on from as it stands in its file, if there is a whole one; `parsed` reads it."""
    damaged = []
    for file in (folder / LAST, folder / BEFORE):
        try:
            content = _whole(file)
            parsed(content)
        except FileNotFoundError:
            continue
        except Damaged as error:
            damaged.append(file)
            log.warning("%s: %s", file, error)
            continue
        if damaged:
            log.warning("going on from the state before it instead, %s", file)
        return content
    if damaged:
        log.warning("%s: no state is whole, so this trial begins anew", folder)
    return None


def load(folder: Path) -> dict[str, Any] | None:
    """The state to go on from, if there is a whole one; warns of files that are damaged."""
    content = load_bytes(folder)
    return None if content is None else parsed(content)


def parsed(content: bytes) -> Any:
    """What was saved, on the CPU. Raises Damaged when that cannot be read."""
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch fail in their own ways on broken files
        raise Damaged(f"damaged, cannot be read ({type(error).__name__})") from error


def discard(folder: Path) -> None:
    """Remove the states of a trial that has its record."""
    for name in (LAST, BEFORE, f"{LAST}{UNFINISHED}"):
        (folder / name).unlink(missing_ok=True)


def save_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Keep a trained network's state dict."""
    _write(folder / WEIGHTS, weights)


def load_weights(file: Path) -> dict[str, Tensor]:
    """A trained network's state dict, on the CPU.

    Raises Damaged, naming the file, when it is not what was written.
    """
    try:
        return parsed(_whole(file))
    except Damaged as error:
        raise Damaged(f"{file}: {error}; copy it again from where it was trained, or train the trial anew") from error


def _write(file: Path, content: Any) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    body = buffer.getbuffer()
    buffer.seek(0, io.SEEK_END)
    digest = hashlib.sha256(body).hexdigest()
    body.release()
    buffer.write(MARK + digest.encode())
    patiently(lambda: storage.make_folder(file.parent), str(file.parent))
    storage.write_atomic(file, buffer.getvalue())


def _whole(file: Path) -> bytes:
    """The file's content without its digest; files of earlier versions have none.

    Raises FileNotFoundError, or Damaged when the digest is another.
    """
    content = file.read_bytes()
    body, mark, digest = content[:-TAIL_BYTES], content[-TAIL_BYTES:-64], content[-64:]
    if mark != MARK:
        return content
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise Damaged("damaged, its digest is another")
    return body
