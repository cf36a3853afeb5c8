"""Conversion: the spiking network against the ordinary one that it was made from."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from harness import plan, plugins, sweep, trial
from harness.config import Experiment
from harness.contract import Origin
from harness.data import prepare
from harness.models.converted import ConvertedNeuron
from harness.record import Record
from tests import tiny
from tests.tiny import labels, still

conversion, ann = plugins.load("methods", "conversion"), plugins.load("methods", "ann")


def pair(settings: dict, *, network: str = "mlp", time_steps: int = 4, x: torch.Tensor | None = None, **options):
    """A briefly trained ann in eval mode, and its conversion, calibrated on x; both in float64."""
    x = still(1, 32, dtype=torch.float64) if x is None else x
    task = tiny.task(network, time_steps=time_steps, **options)
    _, config, source = tiny.build("ann", settings, task)
    optimizer = torch.optim.Adam(source.double().train().parameters(), lr=0.02)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(30):
        ann.train_step(source, x, labels(x.shape[1]), config, update)
    started = replace(task, start=Origin("ann", config.model_dump(), 1))
    own = conversion.resolve(conversion.Config(), started)
    net = conversion.build(own, started).double().eval()
    with torch.no_grad():
        conversion.start(net, source.state_dict(), iter([x]), own)
    return source.eval(), net


def scores(net: torch.nn.Module, x: torch.Tensor, time_steps: int) -> torch.Tensor:
    with torch.no_grad():
        return conversion.predict(net, x[:1].expand(time_steps, *x.shape[1:]), conversion.Config())


@pytest.mark.parametrize("levels", [1, 4, 8])
def test_one_layer_of_qcfs_is_exact_at_T_equal_to_L(levels):
    """The only hidden layer sees a constant input, so nothing is left to differ."""
    source, net = pair({"activation": "qcfs", "levels": levels, "initial_threshold": 1.5})
    x = still(1, 64, dtype=torch.float64, seed=1)
    with torch.no_grad():
        expected = source(x)
    torch.testing.assert_close(scores(net, x, levels)[-1], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("readout", ["linear", "rectified"])
@pytest.mark.parametrize("network", ["mlp", "convnet"])
def test_relu_network_is_approached_as_T_grows(network, readout):
    options = {"hidden": (12, 10)} if network == "mlp" else {}
    x = still(1, 64, dtype=torch.float64, seed=1)
    source, net = pair({"readout": readout}, network=network, x=x, **options)
    for module in net.modules():
        if isinstance(module, ConvertedNeuron):
            module.v_threshold *= 3  # nothing saturates, so only the time steps are too few
    with torch.no_grad():
        expected = source(x)
    found = scores(net, x, 1024)
    error = [((found[t - 1] - expected).abs().max() / expected.abs().max()).item() for t in (4, 64, 1024)]
    assert error[2] < 0.02
    assert error[2] < error[1] < error[0]


def test_threshold_is_the_percentile_of_the_relus_values():
    x = still(1, 200, dtype=torch.float64)
    source, net = pair({}, x=x)
    with torch.no_grad():
        values = source.body[:3](x)  # flatten, linear, batch norm
    neuron = next(module for module in net.modules() if isinstance(module, ConvertedNeuron))
    expected = np.percentile(values.relu().numpy(), 99.9, method="higher")
    assert neuron.v_threshold.item() == pytest.approx(expected, rel=1e-3)
    assert not neuron.rectifies


def test_scores_at_t_are_the_mean_of_the_last_layer_so_far():
    _, net = pair({})
    x = still(1, 5, dtype=torch.float64)
    found = scores(net, x, 6)
    with torch.no_grad():
        currents = net.body(x.expand(6, *x.shape[1:]))
    for t in range(1, 7):
        torch.testing.assert_close(found[t - 1], currents[:t].mean(0))


def test_weights_of_another_kind_of_network_are_refused_by_name():
    task = tiny.task()
    _, _, other = tiny.build("ann", {}, tiny.task("convnet"))
    net = conversion.build(conversion.Config(), task)
    with pytest.raises(
        ValueError, match=r"missing .*: body\.2\.weight, .*unknown .*: body\.0\.weight, .*shape: body\.1\.w"
    ):
        conversion.start(net, other.state_dict(), iter(()), conversion.Config(calibration_percentile=99.0))
    with pytest.raises(ValueError, match=r"missing .*: body\.3\.v_threshold"):
        conversion.start(net, tiny.build("ann", {}, task)[2].state_dict(), iter(()), conversion.Config())


METHODS = [
    {"name": "conversion", "label": "of relu", "start": "relu"},
    {"name": "conversion", "label": "of qcfs", "start": "qcfs"},
    {"name": "ann", "label": "relu"},
    {"name": "ann", "label": "qcfs", "settings": {"activation": "qcfs", "levels": 8, "initial_threshold": 4.0}},
]


class Measured(NamedTuple):
    """Trials and their records by label."""

    folder: Path
    trials: dict[str, plan.Trial]
    records: dict[str, Record]


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Measured:
    """Both kinds of network trained for a few epochs on digits, and their conversions at T = 256, by label."""
    folder = tmp_path_factory.mktemp("results")
    experiment = Experiment.model_validate(
        {
            "name": "small", "dataset": "digits", "network": {"name": "mlp", "hidden": [32, 32]}, "time_steps": 256,
            "methods": METHODS, "train": {"epochs": 4}, "evaluation": {"latency_repeats": 0}, "results": str(folder),
        }
    )  # fmt: skip
    prepare.prepare("digits")
    trials = plan.expand(experiment, prepare.info("digits"))
    found = {t.label: sweep.run_one(experiment, t, lambda metrics: None) for t in trials}
    return Measured(experiment.folder, {t.label: t for t in trials}, found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["relu", "qcfs"])
def test_accuracy_comes_to_that_of_the_network_it_was_made_from(measured, kind):
    source, found = measured.records[kind], measured.records[f"of {kind}"]
    assert found.outcome == "done", found.reason
    assert measured.trials[f"of {kind}"].start == measured.trials[kind]
    assert source.accuracy[1] > 85
    # One sample in 360 is 0.28 %: at most four are judged otherwise.
    assert found.accuracy[256] == pytest.approx(source.accuracy[1], abs=1.2)
    assert found.accuracy[1] < found.accuracy[256]


@pytest.mark.slow
def test_record_of_what_was_not_trained_has_no_epochs_and_can_be_evaluated_again(measured):
    found = measured.records["of relu"]
    assert found.history == []
    assert found.selected_epoch is None
    assert found.cost.throughput is None
    assert found.cost.operations.Effective_ACs > 0
    assert found.trial["start"]["label"] == "relu"
    assert found.validation_accuracy > 80
    again = trial.reevaluate(found, measured.folder, 256)
    assert again.accuracies[-1] == pytest.approx(found.accuracy[256], abs=1e-6)
