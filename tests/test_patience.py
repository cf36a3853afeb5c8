"""Writes that wait, and those that do not."""

import errno
import os

import pytest

from harness import patience
from harness.experiment_file import ConfigError
from harness.patience import GaveUp, patiently


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setenv("HARNESS_PATIENCE_SECONDS", "20")


class Refusing:
    """A write that fails so many times."""

    def __init__(self, error: Exception, times: int = 3) -> None:
        self.error, self.left, self.calls = error, times, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "written"


class EndpointConnectionError(Exception):
    """Stands for botocore's, whose class descends from one of this name."""


class HTTPClientError(Exception):
    pass


class ConnectTimeoutError(HTTPClientError):
    pass


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, os.strerror(number))
          for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)),
        ConnectionResetError("peer"), TimeoutError("late"), ConnectTimeoutError("store"),
    ],
    ids=repr,
)  # fmt: skip
def test_storage_that_is_away_for_a_while_is_waited_for_with_one_warning(error, caplog):
    write = Refusing(error)
    assert patiently(write, "/results/a.json") == "written"
    assert write.calls == 4
    (warning,) = caplog.messages
    assert warning.startswith("/results/a.json: ")
    assert "waiting up to 20 s" in warning


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "denied"), ValueError("no"), FileNotFoundError("a")])
def test_what_will_not_pass_by_itself_is_raised_at_once(error):
    write = Refusing(error)
    with pytest.raises(type(error)):
        patiently(write, "a")
    assert write.calls == 1


def test_after_the_limit_it_says_where_why_and_what_to_do(monkeypatch):
    monkeypatch.setenv("HARNESS_PATIENCE_SECONDS", "0.05")
    with pytest.raises(GaveUp, match=r"^/results: No space left on device, for 0 s; free some space there, and the"):
        patiently(Refusing(OSError(errno.ENOSPC, "No space left on device"), times=10_000), "/results")


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "nan"])
def test_a_limit_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("HARNESS_PATIENCE_SECONDS", text)
    with pytest.raises(
        ConfigError, match=f"HARNESS_PATIENCE_SECONDS={text}: expected a number of seconds, such as 600"
    ):
        patience.limit_seconds()
