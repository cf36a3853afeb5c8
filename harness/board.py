"""What a sweep tells its trials while they run, and they it: a few words in Ray's own key-value store.

It is there on every cluster, reached from every node, and asks for no process and no shared folder.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NAMESPACE = b"snn-harness"
LOOK_SECONDS = 0.5
"""Between two looks of the driver at its board."""

log = logging.getLogger(__name__)


class Board:
    """One sweep's board, the same on all nodes."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def new(cls) -> "Board":
        """A board of one's own."""
        return cls(uuid.uuid4().hex[:12])

    def stop(self) -> None:
        """Ask all trials to save themselves and end."""
        self._put("stop", "")

    def is_stopping(self) -> bool:
        """Whether trials are asked to end."""
        return self._get("stop") is not None

    def give_up(self, why: str) -> None:
        """Say that a trial cannot save what it measured, which has to end the sweep."""
        self._put("gave up", why)

    def gave_up(self) -> str | None:
        """Why a trial could not save what it measured, if that happened."""
        return self._get("gave up")

    def say(self, text: str) -> None:
        """Have a line shown on the driver's terminal."""
        self._put(f"said/{time.time_ns():020d}", text)

    def hear(self) -> list[str]:
        """What was said since the last time, oldest first."""
        from ray.experimental import internal_kv

        found = []
        for key in sorted(internal_kv._internal_kv_list(self._key("said/"), namespace=NAMESPACE)):
            value = internal_kv._internal_kv_get(key, namespace=NAMESPACE)
            internal_kv._internal_kv_del(key, namespace=NAMESPACE)
            found += [value.decode()] if value is not None else []
        return found

    def asked(self) -> bool:
        """`is_stopping` for a trial, which a store that does not answer for a while must not stop."""
        try:
            return self.is_stopping()
        except Exception as error:  # noqa: BLE001 - whatever Ray raises while its head is away
            log.info("board: %s", error)
            return False

    @contextmanager
    def noted(self, trial_id: str, memory: Callable[[], int | None]) -> Iterator[None]:
        """Note the most `memory` (bytes) that this process holds within the block, as long as it lives."""
        ended = threading.Event()
        thread = threading.Thread(target=self._note, args=(trial_id, memory, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()

    def _note(self, trial_id: str, memory: Callable[[], int | None], ended: threading.Event) -> None:
        noted = 0
        while not ended.wait(LOOK_SECONDS):
            try:
                if (peak := memory() or 0) > 1.02 * noted:
                    noted = max(peak, self.peak(trial_id) or 0)
                    self._put(f"peak/{trial_id}", str(noted))
            except Exception as error:  # noqa: BLE001 - as above
                log.info("board: %s", error)

    def peak(self, trial_id: str) -> int | None:
        """The most bytes that a process of a trial was seen to hold."""
        text = self._get(f"peak/{trial_id}")
        return int(text) if text else None

    def clear(self) -> None:
        """Take everything down."""
        from ray.experimental import internal_kv

        internal_kv._internal_kv_del(self._key(""), del_by_prefix=True, namespace=NAMESPACE)

    @contextmanager
    def relayed(self) -> Iterator[None]:
        """What the harness warns of in this process within the block is shown on the driver's terminal."""
        handler, logger = _Relay(self), logging.getLogger("harness")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)

    @contextmanager
    def read(self, is_over: Callable[[], bool]) -> Iterator[None]:
        """Show on this terminal what is said, each line once, and stop all trials when it `is_over` or one gave up."""
        ended = threading.Event()
        thread = threading.Thread(target=self._read, args=(is_over, ended), name="board", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(10)

    def _read(self, is_over: Callable[[], bool], ended: threading.Event) -> None:
        shown: set[str] = set()
        last = False
        while not last:
            last = ended.wait(LOOK_SECONDS)
            try:
                self._show(shown)
                if (is_over() or self.gave_up()) and not self.is_stopping():
                    self.stop()
                if last:
                    self.clear()
            except Exception as error:  # noqa: BLE001 - of a cluster that is going down; the sweep itself notices that
                log.info("board: %s", error)

    def _show(self, shown: set[str]) -> None:
        for text in self.hear():
            if text not in shown:
                shown.add(text)
                log.warning("%s", text)

    def _key(self, what: str) -> bytes:
        return f"{self.name}/{what}".encode()

    def _put(self, what: str, text: str) -> None:
        from ray.experimental import internal_kv

        internal_kv._internal_kv_put(self._key(what), text.encode(), namespace=NAMESPACE)

    def _get(self, what: str) -> str | None:
        from ray.experimental import internal_kv

        value = internal_kv._internal_kv_get(self._key(what), namespace=NAMESPACE)
        return None if value is None else value.decode()


class _Relay(logging.Handler):
    """Puts warnings on the board."""

    def __init__(self, board: Board) -> None:
        super().__init__(logging.WARNING)
        self._board = board

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._board.say(record.getMessage())
        except Exception:  # noqa: BLE001 - as logging does: a message that cannot be passed on must end nothing
            self.handleError(record)
