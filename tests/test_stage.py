"""Copies of prepared data on local disks."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from harness import cluster
from harness.config import Scale
from harness.data import disk, prepare, prepared, stage
from harness.progress import Counts


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    for name in ("HARNESS_DATA", "HARNESS_STAGE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def origin() -> Path:
    return prepare.prepare("digits", beton=True).folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_copy_is_the_same_and_made_once(origin, tmp_path):
    seen: list[tuple[int, int]] = []
    folder, copied = stage.copy(origin, tmp_path / "disk", lambda *step: seen.append(step))
    assert contents(Path(folder)) == contents(origin)
    assert seen[-1] == (copied, copied)
    assert copied == prepared.manifest_of(origin).size_bytes
    before = {file: file.stat().st_mtime_ns for file in Path(folder).iterdir()}
    assert stage.copy(origin, tmp_path / "disk") == (folder, 0)
    assert {file: file.stat().st_mtime_ns for file in Path(folder).iterdir()} == before
    assert [path.name for path in (tmp_path / "disk" / "prepared").iterdir()] == [origin.name]


def test_interrupted_copy_is_not_taken_for_one_and_goes_on(origin, tmp_path):
    def interrupt(done: int, total: int) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.copy(origin, tmp_path / "disk", interrupt)
    (unfinished,) = (tmp_path / "disk" / "prepared").iterdir()
    assert unfinished.name.startswith(".")
    there = [file.name for file in unfinished.iterdir()]
    folder, copied = stage.copy(origin, tmp_path / "disk")
    assert copied < prepared.manifest_of(origin).size_bytes
    assert len(there) > 1
    assert contents(Path(folder)) == contents(origin)


def test_damaged_original_is_not_passed_on(origin, tmp_path):
    content = bytearray((origin / "train.beton").read_bytes())
    content[-1] ^= 1
    (origin / "train.beton").write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.beton differs from what was prepared: see `harness data verify`"):
        stage.copy(origin, tmp_path / "disk")
    assert not (tmp_path / "disk" / "prepared" / origin.name).exists()


def test_copy_that_was_cut_short_is_made_anew(origin, tmp_path):
    folder = Path(stage.copy(origin, tmp_path / "disk")[0])
    os.truncate(folder / "test.beton", 10)
    assert stage.copy(origin, tmp_path / "disk")[1] > 0
    assert contents(folder) == contents(origin)


def test_original_that_a_machine_does_not_see_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not see /nowhere/digits-1: HARNESS_CACHE has to be on a shared"):
        stage.copy(Path("/nowhere/digits-1"), tmp_path)


def test_cache_itself_is_refused(origin, cache):
    with pytest.raises(ValueError, match="is the original itself: choose another folder"):
        stage.copy(origin, cache)


def test_disk_that_is_too_small_is_noticed_beforehand(origin, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(disk.NoSpace, match=r"copy of digits-\w+ needs 321\.0 kB, but .* has 1\.0 kB left: free"):
        stage.copy(origin, tmp_path / "disk")


def test_of_many_at_once_one_copies(origin, tmp_path):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(stage.copy(origin, tmp_path / "disk")[1])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == [0, 0, 0, prepared.manifest_of(origin).size_bytes]


def test_stage_copies_here_without_a_cluster_and_training_then_reads_the_copy(harness, tmp_path, monkeypatch):
    code, out, err = harness("data", "stage", "digits", "--to", tmp_path / "disk")
    assert code == 0, err
    assert f"{tmp_path / 'disk' / 'prepared'}" in out
    assert "(copied 321.0 kB)" in out
    assert f"HARNESS_STAGE={tmp_path / 'disk'} is set" in err
    monkeypatch.setenv("HARNESS_STAGE", str(tmp_path / "disk"))
    assert prepare.prepare("digits").folder.is_relative_to(tmp_path / "disk")
    code, out, err = harness("data", "stage", "digits", "--json", "--quiet")
    (result,) = json.loads(out)
    assert (code, err, result["copied_bytes"], result["problem"]) == (0, "", 0, "")
    code, out, _ = harness("data", "verify", "digits")
    assert (code, len(out.splitlines())) == (0, 2)
    facts = json.loads(harness("data", "info", "digits", "--json")[1])
    assert facts["prepared"]["folder"].startswith(str(tmp_path / "disk"))


def test_stage_asks_where_to(harness):
    code, _, err = harness("data", "stage", "digits")
    assert (code, err) == (2, "harness: --to: which folder? (it may be given as HARNESS_STAGE, too)\n")


@pytest.mark.slow
def test_every_node_of_a_cluster_gets_a_copy_or_says_why_not(origin, tmp_path):
    with cluster.connected(Scale()), Counts(quiet=True) as counts:
        (first,) = stage.everywhere(origin, tmp_path / "disk", counts)
        (again,) = stage.everywhere(origin, tmp_path / "disk", counts)
        (tmp_path / "file").touch()
        (failed,) = stage.everywhere(origin, tmp_path / "file", counts)
        (lost,) = stage.everywhere(Path("/nowhere/digits-1"), tmp_path / "disk", counts)
    assert contents(Path(first.folder)) == contents(origin)
    assert (first.copied_bytes, again.copied_bytes) == (prepared.manifest_of(origin).size_bytes, 0)
    assert "Not a directory" in failed.problem
    assert str(failed).startswith(f"{failed.node}: ")
    assert "does not see /nowhere/digits-1" in lost.problem
