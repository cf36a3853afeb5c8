"""SIGINT and SIGTERM as an exception, or first as a wish, so that what is under way is left in order."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from harness.patience import seconds

GRACE_SECONDS = 20.0
"""How long running trials may take to save themselves, unless HARNESS_GRACE_SECONDS says otherwise."""


class Interrupted(Exception):
    """A signal asked to stop; everything done so far is on disk."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def raised() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into Interrupted for the length of the block."""
    caught: list[int] = []

    def interrupt(number: int, before: Any) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # a second signal must not cut the clean-up short
        caught.append(number)
        raise Interrupted(number)

    with _handled(interrupt, caught):
        yield


@contextmanager
def wished() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM came within the block; the block then ends as Interrupted.

    A second signal, or HARNESS_GRACE_SECONDS (20) after the first, raises Interrupted wherever the block stands.
    """
    grace = seconds("HARNESS_GRACE_SECONDS", GRACE_SECONDS)
    caught: list[int] = []
    over = threading.Event()

    def wish(number: int, before: Any) -> None:
        if caught:
            for each in before:
                signal.signal(each, signal.SIG_IGN)
            raise Interrupted(caught[0])
        caught.append(number)
        text = f"harness: stopping; what runs saves itself, for up to {grace:g} s; a second signal ends it at once\n"
        os.write(2, text.encode())  # print() may be what this handler has interrupted
        threading.Thread(target=insist, args=(number,), daemon=True).start()

    def insist(number: int) -> None:
        if not over.wait(grace):
            os.kill(os.getpid(), number)

    try:
        with _handled(wish, caught):
            try:
                yield lambda: bool(caught)
            finally:
                over.set()
    finally:
        over.set()


@contextmanager
def _handled(handle: Callable[[int, Any], None], caught: list[int]) -> Iterator[None]:
    """Have SIGINT and SIGTERM handled within the block, and end it as Interrupted if one was `caught`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        before[number] = signal.signal(number, lambda got, frame: handle(got, before))
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
