"""Who trains a trial: one process at a time, of any number of sweeps over the same results.

In a file system a claim is a `harness.lock` in the trial's checkpoint folder. An object store cannot rename, so there
it is an object that the last claimant has written: whoever finds that it names another one has lost it. Two that claim
within the same moment are told apart by what stands there a little later. Should both train for a while, they make the
same bits and replace whole objects by equal ones, so that only time is lost.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from harness import lock, storage
from harness.lock import Lost
from harness.patience import patiently

NAME = "claim"
BEAT_SECONDS, SETTLE_SECONDS, STALE_SECONDS = 15.0, 1.0, 60.0
"""Of a claim in an object store: renewed so often; who wrote last is looked up so much later; then it is dead."""

log = logging.getLogger(__name__)


class Claim(Protocol):
    """The right to train a trial."""

    def check(self) -> None:
        """Raise Lost when another process has it now."""

    def release(self) -> None:
        """Give it up."""


@contextmanager
def held(
    folder: Path, what: str, *, unless: Callable[[], bool] = lambda: False, party: str = ""
) -> Iterator[Claim | None]:
    """Hold the claim to what is trained in `folder`, waiting for another process that has it.

    Gives None, and waits no longer, as soon as `unless()`. Of the same `party`, a sweep's name, nobody is waited for:
    a sweep starts a trial again only where it knows the last attempt to be dead, or cut off from everything.
    """
    patiently(lambda: storage.make_folder(folder), str(folder))
    claim = patiently(lambda: _acquired(folder / NAME, what, unless, party), str(folder))
    try:
        yield claim
    finally:
        if claim:
            try:
                claim.release()
            except OSError as error:  # without signs of life it lapses by itself
                log.warning("%s: %s", folder / NAME, error.strerror or error)


def guard(claim: Claim, folder: Path) -> Callable[[], None]:
    """A function that raises Lost when another process has the claim, and GaveUp when storage does not tell."""
    return lambda: patiently(claim.check, str(folder))


def _acquired(path: Path, what: str, unless: Callable[[], bool], party: str) -> Claim | None:
    if storage.is_remote(path):
        return _written(path, what, unless, party)
    return lock.acquired(path, what, unless=unless, party=party)


class _Written:
    """A claim in an object store."""

    def __init__(self, path: Path, party: str) -> None:
        self._path, self._party, self._id, self._over = path, party, uuid.uuid4().hex, threading.Event()

    def write(self) -> None:
        # The beat makes every renewal another content: nothing is asked of the store's clock.
        self._path.write_text(json.dumps({"id": self._id, "party": self._party, "beat": uuid.uuid4().hex}))

    def keep(self) -> None:
        """Renew it from now on."""
        threading.Thread(target=self._beat, daemon=True).start()

    def is_mine(self) -> bool:
        return _read(self._path).get("id") == self._id

    def check(self) -> None:
        if not self.is_mine():
            raise Lost(f"{self._path} was taken by another process")

    def release(self) -> None:
        self._over.set()
        if self.is_mine():
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                if not self.is_mine():
                    return
                self.write()
            except Exception as error:  # noqa: BLE001 - whatever a store does, a missed beat must end nothing
                log.warning("%s: %s", self._path, " ".join(str(error).split())[:200])


def _written(path: Path, what: str, unless: Callable[[], bool], party: str) -> Claim | None:
    mine, seen, since = _Written(path, party), {}, time.monotonic()  # type: ignore[var-annotated]
    while not unless():
        other = _read(path)
        if other and not (party and other.get("party") == party):
            if other != seen:
                if other.get("id") != seen.get("id"):
                    log.warning("waiting for another process, which is %s", what)
                seen, since = other, time.monotonic()
            if time.monotonic() - since < STALE_SECONDS:
                time.sleep(SETTLE_SECONDS)
                continue
        mine.write()
        time.sleep(SETTLE_SECONDS)
        if mine.is_mine():
            mine.keep()
            return mine
    return None


def _read(path: Path) -> dict[str, str]:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
