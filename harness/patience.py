"""Writes that wait: a disk that is full or a share that is read-only for a while costs time, not results."""

import errno
import logging
import os
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

VARIABLE, PATIENCE_SECONDS = "HARNESS_PATIENCE_SECONDS", 600.0
"""How long storage is waited for, unless the environment says otherwise."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 10.0
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}
"""What disks and network shares say while they are full, read-only, or away."""
UNREACHED = {
    "ConnectionError", "TimeoutError", "HTTPClientError", "ClientConnectionError", "TransportError",
    "IncompleteReadError", "ReadTimeoutError",
}  # fmt: skip
"""Names of the classes that Python's, botocore's, aiohttp's and Google's connection errors descend from."""
ADVICE = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some of your quota there",
    errno.EROFS: "make it writable again",
}

log = logging.getLogger(__name__)


class GaveUp(Exception):
    """Storage did not take what was measured for as long as one is ready to wait; one line for the user."""


def seconds(variable: str, default: float) -> float:
    """A number of seconds from the environment.

    Raises ConfigError when it is none.
    """
    from harness.experiment_file import ConfigError  # which reads what is stored, through this module

    text = os.environ.get(variable, "")
    try:
        value = float(text or default)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{variable}={text}: expected a number of seconds, such as {default:g}")
    return value


def limit_seconds() -> float:
    """How long writes wait in this process; raises ConfigError where the environment holds no number."""
    return seconds(VARIABLE, PATIENCE_SECONDS)


def inherit(limit: float) -> None:
    """Wait as long as the process that started this one, perhaps on another machine."""
    os.environ[VARIABLE] = str(limit)


def patiently(write: Callable[[], Result], what: str) -> Result:
    """What `write` returns, tried again while storage refuses it; `what`, a file or folder, is said to be waited for.

    `write` has to begin anew each time. Raises GaveUp after HARNESS_PATIENCE_SECONDS (600); errors that will not pass
    by themselves are raised at once.
    """
    limit, pause = limit_seconds(), FIRST_PAUSE_SECONDS
    since: float | None = None
    while True:
        try:
            return write()
        except Exception as error:
            if not _passes(error):
                raise
            if since is None:
                since = time.monotonic()
                log.warning("%s: %s; waiting up to %g s: %s", what, _reason(error), limit, _advice(error))
            waited = time.monotonic() - since
            if waited >= limit:
                raise GaveUp(
                    f"{what}: {_reason(error)}, for {waited:.0f} s; {_advice(error)}, and the same command goes on"
                ) from error
        time.sleep(min(pause, limit - waited))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _passes(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in PASSING:
        return True
    return any(kind.__name__ in UNREACHED for kind in type(error).__mro__)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


def _advice(error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    return ADVICE.get(number or 0, "see that it can be reached")
