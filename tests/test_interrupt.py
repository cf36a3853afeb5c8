"""Signals as wishes and as exceptions."""

import os
import signal
import subprocess
import sys
import time

import pytest

from harness import interrupt
from harness.interrupt import Interrupted


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@interrupt.wished()
def twice(reached: list[str]) -> None:
    send(signal.SIGINT)
    reached.append("first")
    send(signal.SIGTERM)
    reached.append("second")


@interrupt.wished()
def failing() -> None:
    send(signal.SIGTERM)
    raise ValueError("connection lost")


@interrupt.wished()
def hanging() -> None:
    send(signal.SIGTERM)
    signal.pause()


def saving(told: list[bool]) -> None:
    with interrupt.wished() as stopping:
        told.append(stopping())
        send(signal.SIGTERM)
        told.append(stopping())


def test_the_first_signal_is_a_wish_and_the_block_ends_by_itself():
    told: list[bool] = []
    with pytest.raises(Interrupted) as stop:
        saving(told)
    assert told == [False, True]
    assert stop.value.exit_code == 143


def test_the_second_signal_ends_the_block_at_once():
    reached: list[str] = []
    with pytest.raises(Interrupted) as stop:
        twice(reached)
    assert reached == ["first"]
    assert stop.value.exit_code == 130


def test_the_grace_period_ends_the_block(monkeypatch):
    monkeypatch.setenv("HARNESS_GRACE_SECONDS", "0.1")
    began = time.monotonic()
    with pytest.raises(Interrupted):
        hanging()
    assert time.monotonic() - began < 10


def test_what_fails_after_a_wish_is_still_an_interruption():
    with pytest.raises(Interrupted):
        failing()


def test_without_a_signal_nothing_happens_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with interrupt.wished() as stopping:
        assert not stopping()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_grace_period_that_is_no_number_is_refused_in_one_line():
    code = "from harness import interrupt; interrupt.wished().__enter__()"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HARNESS_GRACE_SECONDS": "long"},
        capture_output=True,
        text=True,
    )
    assert "HARNESS_GRACE_SECONDS=long: expected a number of seconds, such as 20" in result.stderr
