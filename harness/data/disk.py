"""Full disks: asked for beforehand where it is known what will be written, and said in one sentence where it is not."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.filesize import decimal

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
ADVICE = "free some, or set HARNESS_CACHE to a folder on a larger disk"


class NoSpace(OSError):
    """What was to be written does not fit; the message is for the user."""


def require(folder: Path, needed_bytes: int, what: str, *, advice: str = ADVICE) -> None:
    """Raise NoSpace unless that many bytes are free where `folder` is."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise NoSpace(f"{what} needs {size(needed_bytes)}, but {folder} has {size(free)} left: {advice}")


@contextmanager
def writing(folder: Path, what: str, needed: Callable[[], str], *, advice: str = ADVICE) -> Iterator[None]:
    """Raise NoSpace, with what `needed` then says, when the disk is full within the block."""
    try:
        yield
    except NoSpace:
        raise
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise NoSpace(f"no space left in {folder} ({error.strerror}): {what} needs {needed()}; {advice}") from error


def sync(file: IO[bytes]) -> None:
    """Have everything that was written on the disk."""
    file.flush()
    os.fsync(file.fileno())


def size(number: int) -> str:
    """Bytes as a person reads them, such as '9.6 MB' or '712 bytes'."""
    return decimal(number)
