"""SIGINT and SIGTERM as an exception, so that what is under way is left in order."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(Exception):
    """A signal asked to stop; everything done so far is on disk."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def raised() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into Interrupted for the length of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    caught: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # a second signal must not cut the clean-up short
        caught.append(number)
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except BaseException as error:
        # Ray's compiled code wraps what is raised while it waits.
        if caught and not isinstance(error, Interrupted):
            raise Interrupted(caught[0]) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise Interrupted(caught[0])
