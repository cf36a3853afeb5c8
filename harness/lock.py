"""The right to write something, for one process of many on any number of machines that share a file system.

A lock is a folder that holds one file, whose name says who the owner is and whose time of change he renews every few
seconds. Both ways to get it are single renamings, of which one of many succeeds: a folder with one's own file in it to
the lock's name, or the file of an owner that is gone to one's own. Nothing is asked of the file system but that, so
that it works where `flock` is missing or local, as on many a network file system; nor of clocks, as each waiting
process measures by its own for how long the time of change has stood still.
"""

import errno
import logging
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

BEAT_SECONDS = 5.0
STALE_SECONDS = 120.0
"""Network file systems show a change to others after up to a minute."""

log = logging.getLogger(__name__)


class Lost(Exception):
    """Another process took the lock, as the owner gave no sign of life for too long."""


class Owner(NamedTuple):
    """Who holds a lock; the parts of its file's name."""

    host: str
    pid: int
    world: str
    """Where the process number counts: the same start of the same machine, the same container."""
    once: str
    """Tells locks of one process apart; behind a party's name and a dash, if the owner belongs to one."""

    @property
    def party(self) -> str:
        """Whose attempts follow one another: nobody starts the next before the last is dead or as good as dead."""
        return self.once.rpartition("-")[0]

    @property
    def file(self) -> str:
        return ".".join(map(str, self))

    def gives_way(self, party: str) -> bool:
        """Whether nobody of that party has to wait for this owner."""
        return self.is_gone() or bool(party and self.party == party)

    def is_gone(self) -> bool:
        """Whether the process is known to have ended; only asked of one's own machine."""
        if self.world != _world():
            return False
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False


class Lock:
    """A lock that is held."""

    def __init__(self, file: Path):
        self._file, self._over = file, threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def check(self) -> None:
        """Raise Lost when another process has taken it."""
        if not self._file.exists():
            raise Lost(f"{self._file.parent} was taken by {_shown(owner(self._file.parent))}")

    def release(self) -> None:
        self._over.set()
        self._file.unlink(missing_ok=True)
        try:
            self._file.parent.rmdir()
        except OSError as error:  # taken by another already, before it was gone
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                os.utime(self._file)
            except FileNotFoundError:
                return
            except OSError as error:  # a network file system may have a bad moment
                log.warning("%s: %s", self._file, error.strerror)


@contextmanager
def held(
    path: Path, what: str, *, unless: Callable[[], bool] = lambda: False, party: str = ""
) -> Iterator[Lock | None]:
    """Hold the lock at `path` (whose folder exists), waiting for others as long as they show signs of life.

    Gives None, and waits no longer, as soon as `unless()`. `what` is said to be done by the one waited for. Of one's
    own `party` (letters and digits) nobody is waited for.
    """
    lock = acquired(path, what, unless=unless, party=party)
    try:
        yield lock
    finally:
        if lock:
            lock.release()


def owner(path: Path) -> Owner | None:
    """Who holds the lock now."""
    try:
        (name,) = os.listdir(path)
        host, pid, world, once = name.rsplit(".", 3)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return Owner(host, int(pid), world, once)


def acquired(path: Path, what: str, *, unless: Callable[[], bool], party: str = "") -> Lock | None:
    """The lock, to be released, or None: like `held`."""
    once = uuid.uuid4().hex[:12]
    me = Owner(socket.gethostname(), os.getpid(), _world(), f"{party}-{once}" if party else once)
    seen: tuple[Owner, int] | None = None
    waited_for: Owner | None = None
    since, pause = time.monotonic(), 0.05
    while True:
        other = owner(path)
        if other is None and _put(path, me):
            return Lock(path / me.file)
        if other is not None:
            beat = _beat(path / other.file)
            if beat is not None and (seen is None or seen != (other, beat)):
                if (seen is None or seen[0] != other) and not other.gives_way(party):
                    log.warning("waiting for %s, which is %s", _shown(other), what)
                    waited_for = other
                seen, since = (other, beat), time.monotonic()
            stale = time.monotonic() - since > STALE_SECONDS
            if (stale or other.gives_way(party)) and _take_over(path, other, me):
                if other == waited_for:
                    log.warning("%s is gone: taking over", _shown(other))
                return Lock(path / me.file)
        if unless():
            return None
        time.sleep(pause)
        pause = min(2 * pause, 1.0)


def _put(path: Path, me: Owner) -> bool:
    """Try to get a lock that nobody holds."""
    if path.is_file():  # of an earlier version, which locked a file
        path.unlink(missing_ok=True)
    folder = path.with_name(f".{path.name}.{me.file}")
    folder.mkdir()
    try:
        (folder / me.file).touch()
        folder.rename(path)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _take_over(path: Path, other: Owner, me: Owner) -> bool:
    """Try to get the lock of one who is gone."""
    try:
        os.utime(path / other.file)  # first, lest the new owner looks as if gone, too
        (path / other.file).rename(path / me.file)
    except FileNotFoundError:
        return False
    return True


def _beat(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _shown(owner: Owner | None) -> str:
    return f"process {owner.pid} on {owner.host}" if owner else "another process"


def _world() -> str:
    """Eight digits for where process numbers of this process mean the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return uuid.uuid5(uuid.NAMESPACE_OID, f"{boot} {os.stat('/proc/self/ns/pid').st_ino}").hex[:8]
    except OSError:
        return uuid.uuid5(uuid.NAMESPACE_OID, f"{socket.gethostname()} {psutil.boot_time()}").hex[:8]
