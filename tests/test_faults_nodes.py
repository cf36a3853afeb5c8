"""Two nodes with addresses of their own, and one that dies."""

import pytest

from harness.data import prepare
from tests import faults, two_nodes
from tests.faults import Sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SPREAD = {
    "methods": ["bptt"], "seeds": 0, "train": {"epochs": 16, "batch_size": 16},
    "scale": {"workers": 2, "placement": "strict_spread", "timeout_seconds": 60},
}  # fmt: skip


def test_two_nodes_train_one_trial_and_a_third_takes_the_place_of_one_that_dies(tmp_path):
    prepare.prepare("digits")
    whole, sweep = Sweep(tmp_path / "whole", **SPREAD), Sweep(tmp_path / "disturbed", **SPREAD)
    try:
        with two_nodes.nodes() as nodes:
            nodes.start(cpus=1)
            second = nodes.start(cpus=1)
            with faults.ended(driver := nodes.sweep(whole)):
                assert driver.ended() == 0, driver.err
            with faults.ended(driver := nodes.sweep(sweep)):
                sweep.progressed()
                nodes.kill_raylet(second)
                nodes.start(cpus=1)
                assert driver.ended() == 0, driver.err
    except two_nodes.NoRights as refused:
        pytest.skip(f"two nodes on one machine need network namespaces: {refused}")
    assert sweep.differences(whole) == []
    (result,) = sweep.records().values()
    assert (result.outcome, result.restarts) == ("done", 1)
