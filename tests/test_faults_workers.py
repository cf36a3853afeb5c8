"""Trials of several workers whose processes, nodes and head are killed."""

from collections.abc import Iterator

import pytest

from tests import faults
from tests.faults import Sweep, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TWO = {
    "methods": ["bptt"], "seeds": 0, "train": {"epochs": 16, "batch_size": 16}, "scale": {"workers": 2},
    "sweep": {"max_failures": 3},
}  # fmt: skip
"""One trial of two workers, long enough to be caught while it runs."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[faults.Cluster]:
    """A head without places for workers, and a node that has them."""
    with faults.cluster(0, dashboard=True) as made:
        made.add(2)
        yield made


@pytest.fixture(scope="module")
def undisturbed(fleet, tmp_path_factory) -> Sweep:
    sweep = Sweep(tmp_path_factory.mktemp("whole"), **TWO)
    with faults.ended(driver := sweep.started(**fleet.client)):
        assert driver.ended() == 0, driver.err
    return sweep


def test_worker_controller_and_driving_process_are_killed_and_nothing_changes(tmp_path, fleet, undisturbed):
    sweep = Sweep(tmp_path, **TWO)
    with faults.ended(driver := sweep.started(**fleet.client)):
        for name in ("ray::RayTrainWorker", "ray::TrainController", "ray::ImplicitFunc"):
            sweep.progressed()
            faults.kill(wait_for(lambda name=name: fleet.workers(name))[:1])
        assert driver.ended() == 0, driver.err
    assert driver.err.count("its process was killed") == 3
    assert "raylet" not in driver.out
    assert sweep.differences(undisturbed) == []


@pytest.mark.long
def test_a_node_dies_with_and_without_another_and_the_head_after_it(tmp_path, fleet, undisturbed):
    sweep = Sweep(tmp_path, **TWO)
    with faults.ended(driver := sweep.started(**fleet.client)):
        sweep.progressed()
        spare = fleet.add(2)
        fleet.nodes[1].kill()
        driver.says("goes on from its checkpoint, waiting for 2 workers x 1 CPUs")
        sweep.progressed()
        spare.kill()
        before = sweep.checkpoints()
        wait_for(lambda: driver.err.count("goes on from its checkpoint") >= 1)
        assert driver.process.poll() is None
        fleet.add(2)
        sweep.progressed(beyond=before)
        fleet.nodes[0].kill()
        assert driver.ended() != 0
    for node in fleet.nodes:
        node.kill()
    fleet.start_head()
    fleet.add(2)
    assert not sweep.records()
    with faults.ended(driver := sweep.started(**fleet.client)):
        assert driver.ended() == 0, driver.err
    assert sweep.differences(undisturbed) == []
