"""The right to write, among processes and machines."""

import os
import threading
import time
from pathlib import Path

import pytest

from harness import lock

ELSEWHERE = "node.with.dots.4711.00000000.abc"


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "it.lock"


def held_by_another_machine(path: Path) -> Path:
    path.mkdir()
    (path / ELSEWHERE).touch()
    return path / ELSEWHERE


def crowds(path: Path, *, threads: int, rounds: int, seconds: float) -> list[int]:
    """Threads that take the lock again and again: how many held it at once, each time that one got it."""
    inside, seen = [0], []

    def work() -> None:
        for _ in range(rounds):
            with lock.held(path, "working") as mine:
                assert mine
                inside[0] += 1
                seen.append(inside[0])
                time.sleep(seconds)
                inside[0] -= 1

    working = [threading.Thread(target=work) for _ in range(threads)]
    for thread in working:
        thread.start()
    for thread in working:
        thread.join(60)
    return seen


def test_lock_is_held_by_one_thread_at_a_time_and_leaves_nothing(path):
    assert crowds(path, threads=4, rounds=10, seconds=0.001) == [1] * 40
    assert list(path.parent.iterdir()) == []


def test_owner_says_machine_and_process(path):
    held_by_another_machine(path)
    found = lock.owner(path)
    assert found is not None
    assert (found.host, found.pid) == ("node.with.dots", 4711)
    assert not found.is_gone()


def test_lock_of_a_machine_that_shows_no_sign_of_life_is_taken_over(path, monkeypatch, caplog):
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.3)
    file = held_by_another_machine(path)
    os.utime(file, (0, 0))  # clocks differ: only that it stands still counts
    started = time.monotonic()
    with lock.held(path, "preparing") as mine:
        assert mine
        assert 0.3 < time.monotonic() - started < 10
        mine.check()
    assert caplog.text.count("waiting for process 4711 on node.with.dots, which is preparing") == 1
    assert not path.exists()


def test_lock_of_a_machine_that_shows_signs_of_life_is_waited_for(path, monkeypatch):
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.4)
    file, over = held_by_another_machine(path), threading.Event()

    def live() -> None:
        for beat in range(12):
            os.utime(file, (beat, beat))
            time.sleep(0.1)
        over.set()
        file.unlink()
        path.rmdir()

    thread = threading.Thread(target=live)
    thread.start()
    with lock.held(path, "preparing") as mine:
        assert mine
        assert over.is_set()
    thread.join(60)


def test_one_of_many_takes_over(path, monkeypatch):
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.2)
    held_by_another_machine(path)
    assert crowds(path, threads=6, rounds=1, seconds=0.05) == [1] * 6


def test_nobody_waits_for_what_is_not_needed_any_more(path):
    held_by_another_machine(path)
    asked = iter([False, True])
    with lock.held(path, "preparing", unless=lambda: next(asked)) as mine:
        assert mine is None
    assert (path / ELSEWHERE).exists()


def test_owner_notices_that_the_lock_was_taken(path):
    with lock.held(path, "preparing") as mine:
        assert mine
        (file,) = path.iterdir()
        file.rename(path / ELSEWHERE)
        with pytest.raises(lock.Lost, match=r"taken by process 4711 on node\.with\.dots"):
            mine.check()
    assert (path / ELSEWHERE).exists()


def test_owner_shows_signs_of_life(path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.02)
    with lock.held(path, "preparing"):
        (file,) = path.iterdir()
        os.utime(file, (0, 0))
        deadline = time.monotonic() + 10
        while file.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert file.stat().st_mtime > 0


def test_file_that_an_earlier_version_locked_is_no_obstacle(path):
    path.touch()
    with lock.held(path, "preparing") as mine:
        assert mine
    assert not path.exists()
