import logging

import pytest
import torch
from torch import nn

from harness import cost, metrics, result
from harness.config import Evaluation
from harness.contract import Task
from harness.loop import CPU
from harness.metrics import Tally
from tests.toy import TASK, Linear, Points, training

QUICK = Evaluation(latency_repeats=1, latency_batch_sizes=(1, 40))


def measured(method=Linear, evaluation=QUICK, task=TASK, feed=None):
    trained = training(epochs=1)
    list(trained.epochs())
    with torch.no_grad():
        return trained, cost.measure(
            trained.net, method, trained.setup.config, task, feed or Points(), trained.history,
            evaluation=evaluation, samples_per_epoch=64, device=CPU,
        )  # fmt: skip


def test_what_is_not_measured_is_absent():
    trained, found = measured(evaluation=Evaluation(latency_repeats=0))
    assert found.latency == []
    assert found.parameters == 4 * 2 + 2
    assert found.throughput == pytest.approx(64 / trained.history[0].seconds)
    assert found.peak_memory_bytes is None or found.peak_memory_bytes > 2**20
    assert (found.missing, found.synops, found.macs, found.worker_hours) == (None, None, None, None)


class NoNeurons(Linear):
    SPIKING = True


class Ordinary(Linear):
    SPIKING = False


def test_spiking_network_without_known_neurons_has_no_firing_rates_and_no_memory_energy():
    _, found = measured(NoNeurons)
    assert (found.neurons, found.firing_rates, found.dead, found.saturated) == (None, {}, {}, {})
    assert found.operations.Dense == 4 * 2
    assert found.energy.memory_nanojoules is None


def test_ordinary_network_has_operations_and_energy_of_its_own():
    _, found = measured(Ordinary)
    assert found.operations.Effective_MACs == found.operations.Dense == 8
    assert found.energy.nanojoules == found.energy.ann_nanojoules
    assert found.energy.memory_nanojoules == found.energy.ann_memory_nanojoules > 0


def test_latency_is_measured_of_no_more_samples_than_there_are():
    _, found = measured()
    assert [(entry.batch_size, entry.time_steps) for entry in found.latency] == [
        (1, 1), (30, 1), (1, 2), (30, 2), (1, 3), (30, 3),
    ]  # fmt: skip


class Moving(Points):
    """Frames (T, B, 1, 2, 2)."""

    def batches(self, part, batch_size, **options):
        for x, y in super().batches(part, batch_size, **options):
            yield x.expand(3, *x.shape).contiguous(), y


@pytest.mark.parametrize("moving", [False, True])
def test_counts_do_not_depend_on_how_samples_are_batched(moving):
    task = Task(**vars(TASK) | {"temporal": moving})
    figures = [
        measured(
            task=task, feed=Moving() if moving else Points(), evaluation=QUICK.model_copy(update={"batch_size": n})
        )
        for n in (7, 64)
    ]
    assert figures[0][1].operations == figures[1][1].operations
    assert [entry.batch_size for entry in figures[0][1].latency] == [1, 30, 1, 30, 1, 30]


class Failing(Linear):
    @staticmethod
    def predict(net: nn.Module, x, config):
        raise torch.OutOfMemoryError("tried to allocate\n 8 GiB")


def test_failure_while_measuring_is_noted_and_loses_nothing(caplog):
    with caplog.at_level(logging.CRITICAL):
        _, found = measured(Failing)
    assert found.missing == "OutOfMemoryError: tried to allocate 8 GiB"
    assert (found.parameters, found.operations, found.latency) == (10, None, [])


def test_worker_hours_count_every_worker_and_accelerator_hours_what_they_held(monkeypatch):
    monkeypatch.setattr(result.Progress, "seconds", 1800.0)
    progress = result.Progress(0.0)
    assert result.hours(progress, world=4, accelerators=0) == {"worker_hours": 2.0}
    assert result.hours(progress, world=4, accelerators=0.5) == {"worker_hours": 2.0, "accelerator_hours": 1.0}


def test_record_of_few_classes_has_no_top5_and_of_one_step_no_early_exit():
    generator = torch.Generator().manual_seed(0)

    def tested(time_steps: int, classes: int):
        scores, y = torch.randn(time_steps, 9, classes, generator=generator), torch.arange(9) % classes
        return result.tested(Tally.of(scores, y, (0.9, 0.3)), (0.9, 0.3), classes)

    assert tested(1, metrics.TOP).keys() == {"accuracy", "test_loss", "test_samples"}
    full = tested(3, metrics.TOP + 1)
    assert full["accuracy_top5"].keys() == full["accuracy"].keys() == {1, 2, 3}
    assert [entry.confidence for entry in full["early_exit"]] == [0.3, 0.9]
    assert full["early_exit"][0].mean_time_steps <= full["early_exit"][1].mean_time_steps


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
