"""Fetches official files: checked, resumed where an earlier attempt stopped, and in place only when they are whole."""

import hashlib
import http.client
import os
import re
import time
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError

import harness
from harness import lock
from harness.contract import Remote
from harness.data import disk
from harness.data.unpack import unpack

Transfer = Callable[[str, int, int | None], None]
"""Called with what is being done, the bytes done, and the bytes in all where these are known."""

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60
ATTEMPTS, PAUSE_SECONDS = 4, 2
"""How often one address is asked without getting anything more of the file, and how long it then has a rest."""


class DownloadError(OSError):
    """A file could not be had; the message says why, from every address."""


class _Refused(Exception):
    """This address does not give the file; another attempt would not, either."""


class _Answer(NamedTuple):
    """What a server sends."""

    body: http.client.HTTPResponse | None
    """None: nothing is missing any more."""
    start: int
    """The first byte of the file that it sends."""
    total: int | None


def fetch(remote: Remote, root: Path, *, elsewhere: Sequence[Path] = (), transfer: Transfer | None = None) -> None:
    """Have `remote` under `root`, unpacked if it is an archive; does nothing where it is already.

    An archive that stands under one of the roots `elsewhere` is used instead of downloading it. Of several processes,
    one downloads and the others wait.

    Raises DownloadError when no address gives the file, disk.NoSpace on a full disk, ValueError for an archive that
    does not hold what it should.
    """
    target, tell = root / remote.path, transfer or (lambda what, done, total: None)
    wanted = [target.parent / name for name in remote.gives] or [target]

    def is_there() -> bool:
        return all(path.exists() for path in wanted)

    target.parent.mkdir(parents=True, exist_ok=True)
    with lock.held(Path(f"{target}.lock"), f"downloading {target.name}", unless=is_there):
        if is_there():
            return
        archive = next((found for folder in elsewhere if _is(found := folder / remote.path, remote)), target)
        if archive == target and not _is(target, remote):
            _download(remote, target, tell)
        if remote.gives:
            say = partial(tell, f"unpacking {target.name}")
            with disk.writing(target.parent, f"unpacking {target.name}", lambda: "more room"):
                unpack(archive, remote.gives, target.parent, say)
            target.unlink(missing_ok=True)


def checksum(file: Path, kind: str, tell: Callable[[int, int], None] = lambda done, total: None) -> str:
    """'md5:…' or 'sha256:…' of a file; `tell` is called with the bytes done and in all."""
    digest, done, size = hashlib.new(kind, usedforsecurity=False), 0, file.stat().st_size
    with file.open("rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            tell(done, size)
    return f"{kind}:{digest.hexdigest()}"


def _is(file: Path, remote: Remote) -> bool:
    return file.is_file() and checksum(file, remote.checksum.partition(":")[0]) == remote.checksum


def _download(remote: Remote, target: Path, tell: Transfer) -> None:
    """Ask every address until one has given the right file."""
    part, problems = target.with_name(f"{target.name}.part"), []
    for url in remote.urls:
        resumed = part.exists()
        try:
            _all_of(url, part, tell)
            found = _checked(part, remote, tell)
            if found != remote.checksum and resumed:  # what was there before may have been of another file
                part.unlink()
                _all_of(url, part, tell)
                found = _checked(part, remote, tell)
        except _Refused as refusal:
            problems.append(f"{url}: {refusal}")
            continue
        if found == remote.checksum:
            part.replace(target)
            return
        part.unlink()
        problems.append(f"{url} gives another file (checksum {found} instead of {remote.checksum})")
    raise DownloadError("; ".join(problems))


def _checked(part: Path, remote: Remote, tell: Transfer) -> str:
    kind = remote.checksum.partition(":")[0]
    return checksum(part, kind, partial(tell, f"checking {part.name.removesuffix('.part')}"))


def _all_of(url: str, part: Path, tell: Transfer) -> None:
    """Download until nothing is missing, again and again where the connection is cut."""
    failures, received = 0, False
    while True:
        before = _size(part)
        try:
            answer = _asked(url, before)
            total = _received(answer, part, tell) if answer.body else answer.total
            if total is None or _size(part) == total:
                return
            reason = f"the connection was cut after {_size(part):,} of {total:,} bytes"
        except disk.NoSpace:
            raise
        except (OSError, http.client.HTTPException) as error:
            reason = _reason(error)
            hopeless = error.code < 500 if isinstance(error, HTTPError) else isinstance(error, URLError)
            if hopeless and not received:
                raise _Refused(reason) from error
        gained = _size(part) > before
        received, failures = received or gained, 0 if gained else failures + 1
        if failures == ATTEMPTS:
            raise _Refused(f"{reason}; the same command goes on from there" if _size(part) else reason)
        time.sleep(failures * PAUSE_SECONDS)


def _reason(error: Exception) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, HTTPError):
        return f"{error.code} {error.reason}"
    cause = error.reason if isinstance(error, URLError) else error
    return (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _asked(url: str, start: int) -> _Answer:
    """Ask for a file from byte `start` on; a server may send it from the beginning."""
    headers = {"User-Agent": f"snn-harness/{harness.__version__}"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        body = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.code != 416:
            raise
        # Nothing lies behind `start`: all is here, or what is here is of another file.
        known = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        return _Answer(None, start, start) if known and int(known[1]) == start else _asked(url, 0)
    partly = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", body.headers.get("Content-Range", ""))
    if body.status == 206 and partly and int(partly[1]) == start:
        return _Answer(body, start, int(partly[2]) if partly[2] != "*" else None)
    if body.status == 206:
        body.close()
        return _asked(url, 0)
    length = body.headers.get("Content-Length")
    return _Answer(body, 0, int(length) if length else None)


def _received(answer: _Answer, part: Path, tell: Transfer) -> int | None:
    """Write what is sent behind what is there, and return the bytes in all."""
    body, done, total = answer.body, answer.start, answer.total
    assert body is not None, "there is something to receive"
    name = part.name.removesuffix(".part")
    if total is not None:
        disk.require(part.parent, total - done, name)
    with body, part.open("r+b" if done else "wb") as file:
        file.seek(done)
        file.truncate()
        tell(f"downloading {name}", done, total)
        while chunk := body.read1(CHUNK_BYTES):
            with disk.writing(part.parent, name, lambda: "more room" if total is None else disk.size(total)):
                file.write(chunk)
                file.flush()
            done += len(chunk)
            tell(f"downloading {name}", done, total)
        os.fsync(file.fileno())
    return total
