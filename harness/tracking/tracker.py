"""Sends records to MLflow: beside a sweep, in a thread that nothing waits for, or all at once afterwards."""

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.record import Record
from harness.tracking.mirror import Mirror
from harness.tracking.server import TrackingError, default_uri, public

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
"""After a failure nothing is sent for so long; twice as long after each further one."""


class Sent(NamedTuple):
    """What `resend` did."""

    changed: int
    """Records that were new or had changed."""
    remarks: list[str]
    """One line for each model that was registered, and for what could not be."""


class Tracker:
    """Sends records in a background thread for the length of a sweep; training never waits for it.

    What could not be sent is kept and sent later, after growing pauses; what is still left at the end is named, and
    `harness track` sends it then.
    """

    def __init__(self, uri: str | None, experiment: str) -> None:
        """`uri` as MLflow takes it; by default MLFLOW_TRACKING_URI, else `mlflow.db` in the current folder."""
        self.remarks: list[str] = []
        """After `close`: one line for each model that was registered, and for what could not be."""
        self._uri = uri or default_uri()
        self._experiment = experiment
        self._changed = threading.Condition()
        self._unsent: deque[Record] = deque()
        self._queued: set[str] = set()
        self._files: list[Path] = []
        self._candidates: list[Record] = []
        self._folders: list[Path] = []
        self._closing = False
        self._problem: str | None = None
        # A daemon: a server that hangs must not keep the sweep from ending.
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def epoch(self, trial_id: str, epoch: int, metrics: dict[str, Any]) -> None:
        """Nothing: epochs travel with their trial's record."""

    def finished(self, result: Record) -> None:
        """Queue a record; returns at once and never raises."""
        with self._changed:
            self._queued.add(result.id)
            self._unsent.append(result)
            self._changed.notify()

    def ensure(self, results: Iterable[Record]) -> None:
        """Queue those of a sweep's records that were not: of an earlier command, which may not have sent them."""
        for result in results:
            if result.id not in self._queued:
                self.finished(result)

    def ended(self, results: Sequence[Record], folder: Path, files: Iterable[Path]) -> None:
        """A sweep's records and the files for its own run; its best network, of `folder`, is registered at the end."""
        self.ensure(results)
        self._candidates += results
        self._folders.append(folder)
        self._files += files

    def close(self, timeout: float) -> list[str]:
        """Try a last time, for up to `timeout` seconds, and return what went wrong, one line each."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._problem = f"no answer within {timeout:g} s"
        left = [record.id for record in list(self._unsent)]
        if self._problem is None and not left:
            return []
        named = left or [path.name for path in self._files] or ["the sweep's end"]
        return [
            f"MLflow at {public(self._uri)}: {self._problem}",
            f"not sent to MLflow: {', '.join(named)}; `harness track <path>` sends it again",
        ]

    def _run(self) -> None:
        mirror, pause = None, 0.0
        while self._next(pause):
            try:
                mirror = mirror or Mirror(self._uri, self._experiment)
                mirror.add(self._unsent[0])
            except TrackingError as error:
                self._problem, pause = str(error), min(max(2 * pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
                self._unsent.rotate(-1)  # it may be this record that the server does not take
                if self._closing:
                    break
            else:
                self._unsent.popleft()
                self._problem, pause = None, 0.0
        self._finish(mirror)

    def _next(self, pause: float) -> bool:
        """Wait for something to send, after a failure also for the pause to pass; False at the end."""
        with self._changed:
            if pause:
                self._changed.wait_for(lambda: self._closing, pause)
            self._changed.wait_for(lambda: self._unsent or self._closing)
            return bool(self._unsent)

    def _finish(self, mirror: Mirror | None) -> None:
        """The last attempt: what is left but for what has just failed, then the files and the best network."""
        if mirror is None:
            return
        try:
            for _ in range(len(self._unsent) - 1 if self._problem else 0):
                mirror.add(self._unsent[0])
                self._unsent.popleft()
            self.remarks += mirror.end(self._candidates, self._folders, self._files)
        except TrackingError as error:
            self._problem = self._problem or str(error)


def resend(
    records: Sequence[Record], uri: str | None, experiment: str, artifacts: Iterable[Path] = (),
    folders: Iterable[Path] = (),
) -> Sent:  # fmt: skip
    """Send records and files now, and register the best network if its weights are below one of `folders`.

    Raises TrackingError when MLflow cannot be written to.
    """
    mirror = Mirror(uri or default_uri(), experiment)
    changed = sum(mirror.add(record) for record in records)
    return Sent(changed, mirror.end(records, folders, artifacts))
