import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness import cost
from harness.loop import CPU
from tests.toy import TASK, Linear, Points, training


def counted(net: nn.Module, run) -> dict:
    with cost.Activity(net) as activity, torch.no_grad():
        run()
    return activity.per_sample(2)


def test_product_with_real_numbers_costs_its_multiply_accumulates():
    net, x = nn.Linear(5, 3), torch.randn(2, 5)
    found = counted(net, lambda: net(x))
    assert (found["macs"], found["synops"]) == (15, 0)
    assert found["energy"].nanojoules == pytest.approx(15 * 4.6 / 1000)


def test_product_with_spikes_costs_one_accumulate_for_each_weight_that_a_spike_meets():
    net = nn.Sequential(nn.Linear(4, 3))
    spikes = 6.0 * torch.tensor([[1, 0, 0, 1], [0, 0, 0, 1]])  # whatever a spike's amplitude is
    found = counted(net, lambda: net(spikes))
    assert found["synops"] == 3 * 3 / 2
    assert found["macs"] == 0
    assert found["firing_rates"] == {"0": 3 / 8}
    assert found["energy"].nanojoules == pytest.approx(4.5 * 0.9 / 1000)


def test_layers_that_a_method_calls_by_hand_are_counted_by_name():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    spikes = torch.ones(2, 4)
    found = counted(net, lambda: F.linear(spikes, net[1].weight[:1]))
    assert found["firing_rates"] == {"1": 1.0}
    assert found["synops"] == 4


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1, bias=False), 8 * 16 * 27),
        (nn.Conv2d(4, 8, 3, groups=2, bias=False), 8 * 4 * 18),
        (nn.ConvTranspose2d(3, 8, 3, stride=2, bias=False), 3 * 16 * 72),
    ],
)
def test_convolutions_cost_their_kernel_at_every_position(layer, macs):
    channels = 4 if isinstance(layer, nn.Conv2d) and layer.groups == 2 else 3
    x = torch.randn(2, channels, 4, 4)
    assert counted(layer, lambda: layer(x))["macs"] == macs


def test_latency_is_measured_after_a_warm_up():
    calls = []
    found = cost.latency(lambda: calls.append(1), 4, TASK, 5, CPU)
    assert len(calls) == cost.WARM_UP + 5
    assert 0 < found.median_ms <= found.p95_ms
    assert (found.batch_size, found.time_steps, found.repeats) == (4, TASK.time_steps, 5)


def test_what_is_not_measured_is_absent():
    trained = training(epochs=1)
    list(trained.epochs())
    setup = trained.setup
    with torch.no_grad():
        found = cost.measure(
            trained.net, Linear, setup.config, TASK, Points(), trained.history,
            batch_size=1, repeats=0, samples_per_epoch=64, device=CPU,
        )  # fmt: skip
    assert found.latency == []
    assert found.parameters == 4 * 2 + 2
    assert found.throughput == pytest.approx(64 / trained.history[0].seconds)
    assert found.peak_memory_bytes is None or found.peak_memory_bytes > 2**20


def test_peak_memory_starts_anew_for_every_trial():
    cost.reset_peak_memory()
    before, kind = cost.peak_memory(CPU)
    if before is None:
        pytest.skip("this system does not let a process reset its peak")
    assert kind == "resident set"
    block = torch.ones(2**24)
    during, _ = cost.peak_memory(CPU)
    assert during > before + 2**25
    del block
    cost.reset_peak_memory()
    after, _ = cost.peak_memory(CPU)
    assert after < during - 2**25
