"""Sweeps of one-worker trials that are disturbed: by signals, kills, other sweeps, full disks, lost servers."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from harness import checkpoint, claim, lock, tracking
from harness.data import prepare
from tests import faults
from tests.faults import Sweep, wait_for
from tests.mlflow_server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LONG = {"methods": ["bptt"], "train": {"epochs": 30, "batch_size": 16}}
"""Two trials, each long enough to be caught while it runs."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Sweep:
    prepare.prepare("digits")
    return Sweep(tmp_path_factory.mktemp("whole"), **LONG).undisturbed()


@pytest.fixture(scope="module")
def fleet(undisturbed) -> Iterator[faults.Cluster]:
    with faults.cluster(6) as made:
        yield made


def test_signals_and_kills_change_no_result_and_measure_nothing_twice(tmp_path, fleet, undisturbed):
    sweep = Sweep(tmp_path, **LONG)
    for number in faults.SIGNALS:
        with faults.ended(driver := sweep.started(**fleet.client)):
            sweep.progressed(2)
            driver.send(number)
            assert driver.ended(60) == 128 + number
        assert f"Resume with: harness sweep {sweep.file}" in driver.err
        assert "Traceback" not in driver.err
        assert not sweep.records()
    with faults.ended(driver := sweep.started(**fleet.client)):
        sweep.progressed(2)
        driver.send(signal.SIGKILL)
        driver.ended()
    # At once: what the dead driver has left may train on for seconds, and must not be in the way of the next.
    with faults.ended(driver := sweep.started(**fleet.client)):
        sweep.progressed(2)
        faults.kill(fleet.workers("ray::Implicit")[:1])
        assert driver.ended() == 0, driver.err
    assert "its process was killed" in driver.err
    assert sweep.differences(undisturbed) == []
    # Thrice by a new driver, and one of the two once more within the last sweep.
    assert sorted(result.restarts for result in sweep.records().values()) == [3, 4]


def test_sweeps_that_start_at_once_train_each_trial_once_and_print_the_same(tmp_path, fleet, undisturbed):
    sweep = Sweep(tmp_path, **LONG)
    other = Sweep(tmp_path / "other", **LONG, name="other", results=str(sweep.results))
    drivers = [sweep.started(**fleet.client), sweep.started(**fleet.client), other.started(**fleet.client)]
    with faults.ended(*drivers):
        assert [driver.ended() for driver in drivers] == [0, 0, 0], [driver.err for driver in drivers]
    assert drivers[0].out == drivers[1].out
    assert any("waiting for process" in driver.err for driver in drivers[:2])
    assert sweep.differences(undisturbed) == []
    assert {result.restarts for result in sweep.records().values()} == {0}
    assert {path.name for path in sweep.results.iterdir()} == {"small", "other"}


@contextlib.contextmanager
def mounted(folder: Path, *, kilobytes: int) -> Iterator[None]:
    """A small disk of memory at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the space that is left on the disk of `folder`."""
    file = folder / "ballast"
    with contextlib.suppress(OSError), open(file, "wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))
    return file


def test_full_and_read_only_disks_are_waited_for(tmp_path, fleet, undisturbed):
    """First for checkpoints, then for records on a disk of their own; a share that is read-only for a while."""
    sweep = Sweep(tmp_path, **LONG)
    (tmp_path / "kept").mkdir()
    with mounted(sweep.results, kilobytes=8000), mounted(sweep.place, kilobytes=2000):
        (sweep.place / "checkpoints").mkdir()
        (sweep.results / "kept").mkdir()
        subprocess.run(["mount", "--bind", str(sweep.results / "kept"), str(sweep.place / "checkpoints")], check=True)
        try:
            with faults.ended(driver := sweep.started(**fleet.client)):
                sweep.progressed(2)
                ballast = fill(sweep.results)
                driver.says("No space left on device; waiting up to 600 s: free some space there")
                records_full = fill(sweep.place)
                before = sweep.checkpoints()
                ballast.unlink()
                sweep.progressed(1, beyond=before)
                # Refused while a file is being written.
                wait_for(lambda: subprocess.run(["mount", "-o", "remount,ro", str(sweep.results)]).returncode == 0)
                driver.says("Read-only file system; waiting up to 600 s: make it writable again")
                subprocess.run(["mount", "-o", "remount,rw", str(sweep.results)], check=True)
                wait_for(lambda: ".json: No space left on device; waiting" in driver.err)
                assert not sweep.records()
                assert sweep.checkpoints()
                records_full.unlink()
                assert driver.ended() == 0, driver.err
            assert sweep.differences(undisturbed) == []
        finally:
            subprocess.run(["umount", "-l", str(sweep.place / "checkpoints")], check=True)


def test_a_disk_that_stays_full_ends_the_sweep_with_one_line_and_the_same_command_goes_on(tmp_path, fleet, undisturbed):
    sweep = Sweep(tmp_path, **LONG)
    with mounted(sweep.results, kilobytes=8000):
        with faults.ended(driver := sweep.started(**fleet.client, HARNESS_PATIENCE_SECONDS="1")):
            sweep.progressed(2)
            ballast = fill(sweep.results)
            assert driver.ended(60) == 1, driver.err
        last = driver.err.splitlines()[-1]
        assert last.startswith(f"harness: {sweep.place}")
        assert "No space left on device, for" in last
        assert last.endswith(f"free some space there, and the same command goes on: harness sweep {sweep.file}")
        assert "Traceback" not in driver.err
        assert not sweep.records()
        ballast.unlink()
        # Half of the newest state, as an older file system may leave it; whichever there is before it is taken.
        newest = max(sweep.checkpoints(), key=lambda file: file.stat().st_mtime_ns)
        newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
        with faults.ended(driver := sweep.started(**fleet.client)):
            assert driver.ended() == 0, driver.err
        assert sweep.differences(undisturbed) == []


def test_an_mlflow_server_that_dies_and_comes_back_has_every_trial_once(tmp_path, fleet):
    short = {"methods": ["ann"], "train": {"epochs": 2}, "seeds": [0, 1, 2], "sweep": {"max_concurrent": 1}}
    server = Server(tmp_path)
    sweep = Sweep(tmp_path / "sweep", **short, tracking={"mlflow": True, "uri": server.uri})
    last = sweep.place / "checkpoints" / sweep.trials()[2].id
    last.mkdir(parents=True)
    server.start()
    driver = sweep.started(**fleet.client)
    try:
        # The last trial is another process's, ours, until the server is back.
        with lock.held(last / claim.NAME, "testing"):
            wait_for(sweep.records)
            server.kill()
            driver.says(f"waiting for process {os.getpid()}")
            assert len(sweep.records()) == 2
            server.start()
        assert driver.ended() == 0, driver.err
        assert "MLflow" not in driver.err
        client = tracking.server.client(server.uri)
        runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
        sent = [run.data.tags["harness.trial"] for run in runs if "harness.trial" in run.data.tags]
        assert sorted(sent) == sorted(sweep.records())
        assert len(runs) == len(sent) + 1
        assert {run.info.status for run in runs} == {"FINISHED"}
    finally:
        driver.destroy()
        server.kill()


def test_a_trial_killed_for_want_of_memory_says_so_with_its_peak_and_the_others_go_on(tmp_path):
    hog = {"name": "ann", "label": "hog", "network": {"name": "mlp", "hidden": [14000, 14000]}}
    sweep = Sweep(
        tmp_path, methods=["ann", hog], seeds=0, train={"epochs": 2}, sweep={"max_failures": 0, "max_concurrent": 1}
    )
    used = psutil.virtual_memory()
    share = (used.total - used.available + 2.5e9) / used.total
    if share > 0.9:
        pytest.skip("too little memory is free to run out of it in order")
    limits = {"RAY_memory_usage_threshold": f"{share:.3f}", "RAY_memory_monitor_refresh_ms": "50"}
    with faults.ended(driver := sweep.started(**limits)):
        assert driver.ended() == 3, driver.err
    found = {result.trial["label"]: result for result in sweep.records().values()}
    assert found["ann"].outcome == "done"
    assert found["hog"].outcome == "failed"
    assert "out of memory" in str(found["hog"].reason)
    assert found["hog"].cost.peak_memory_kind == "resident set"
    assert (found["hog"].cost.peak_memory_bytes or 0) > 5e8


def test_train_without_ray_saves_itself_on_a_signal_and_goes_on(tmp_path, undisturbed):
    sweep = Sweep(tmp_path, **LONG)
    with faults.ended(driver := sweep.started("train")):
        sweep.progressed()
        driver.send(signal.SIGTERM)
        assert driver.ended(30) == 143
    assert f"Resume with: harness train {sweep.file}" in driver.err
    assert not sweep.records()
    assert (state := checkpoint.load(next(iter(sweep.checkpoints())).parent))
    assert state["progress"]["restarts"] == 0
    with faults.ended(driver := sweep.started("train"), again := sweep.started("train")):
        assert [driver.ended(), again.ended()] == [0, 0], driver.err + again.err
    (ours,) = sweep.records().values()
    assert faults.same(ours, undisturbed.records()[ours.id])
    assert ours.restarts == 1
