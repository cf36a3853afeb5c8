"""One process at a time trains a trial, in a file system and in an object store."""

import os
import threading
import uuid

import pytest
from upath import UPath

from harness import claim, lock, storage
from harness.lock import Lost


@pytest.fixture(params=["file system", "object store"])
def folder(request, tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(claim, "BEAT_SECONDS", 0.05)
    # In memory stands for any store that can only put, get and delete whole objects.
    return tmp_path / "trial" if request.param == "file system" else UPath(f"memory://{uuid.uuid4().hex}/trial")


def test_one_of_many_has_it_at_a_time_and_leaves_nothing(folder):
    inside, most = [0], []

    def work() -> None:
        with claim.held(folder, "training") as mine:
            assert mine
            inside[0] += 1
            mine.check()
            most.append(inside[0])
            inside[0] -= 1

    working = [threading.Thread(target=work) for _ in range(3)]
    for thread in working:
        thread.start()
    for thread in working:
        thread.join(60)
    assert most == [1, 1, 1]
    assert not (folder / claim.NAME).exists()


def test_nobody_waits_for_what_is_measured(folder):
    with claim.held(folder, "training") as mine, claim.held(folder, "training", unless=lambda: True) as other:
        assert other is None
        assert mine
        mine.check()


def test_the_next_attempt_of_the_same_sweep_takes_it_and_the_one_before_notices(folder):
    with claim.held(folder, "training", party="abc") as orphan, claim.held(folder, "training", party="abc") as mine:
        assert orphan
        assert mine
        mine.check()
        with pytest.raises(Lost, match="was taken by"):
            orphan.check()
        with pytest.raises(Lost):
            claim.guard(orphan, folder)()


def test_a_claim_that_shows_no_sign_of_life_is_taken_over(folder, monkeypatch, caplog):
    monkeypatch.setattr(claim, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.3)
    folder.mkdir(parents=True)
    if storage.is_remote(folder):
        (folder / claim.NAME).write_text('{"id": "of a dead process"}')
    else:
        (folder / claim.NAME).mkdir()
        (folder / claim.NAME / "elsewhere.4711.00000000.abc").touch()
        os.utime(folder / claim.NAME / "elsewhere.4711.00000000.abc", (0, 0))
    with claim.held(folder, "training it") as mine:
        assert mine
        mine.check()
    assert "which is training it" in caplog.text
