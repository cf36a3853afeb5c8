"""A cell: one configuration over its seeds, with the means of what was measured; how cells differ and are sorted."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness import means
from harness.extract import Extract
from harness.means import Statistic, grouped
from harness.record import Cost, EarlyExit, Energy, Latency, Operations, Outcome, Record

__all__ = ["Cell", "Failure", "Measured", "Statistic", "canonical", "curve", "flatten", "grouped", "order"]

Measured = Record | Extract
"""What a cell is made of; a cell of extracts knows no layers' convergence but at T, and no latency but at T."""


@dataclass(frozen=True)
class Failure:
    """A seed that did not give a result, and why."""

    seed: int
    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Cell:
    """One configuration over all its seeds: what a row of a table shows.

    Means are over the seeds that are done, and made when they are first asked for; a figure that no record holds is
    None or empty. Accuracies in percent.
    """

    records: tuple[Measured, ...]
    """Of all seeds, in their order; they differ in nothing else."""
    dataset: str
    """The dataset's printed name."""
    network: str
    """Name and options of the network, as tables print them."""
    configuration: Mapping[str, Any]
    """The whole trial but its seed, flat: 'settings.v_threshold' -> 1.0."""

    @cached_property
    def key(self) -> str:
        """What distinguishes this cell from every other one, in canonical form."""
        return canonical([self.dataset, self.selection, self.configuration])

    @cached_property
    def order(self) -> tuple:
        """What cells are sorted by: dataset, network, label, T, then the settings, numbers by size."""
        settings = sorted(self.configuration.items())
        values = [(key, isinstance(value, str), *_comparable(value)) for key, value in settings]
        return self.dataset, *curve(self), values, self.key

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Of all records."""
        return tuple(record.id for record in self.records)

    @cached_property
    def label(self) -> str:
        """The method as the experiment names it."""
        return str(self.configuration["label"])

    @cached_property
    def method(self) -> str:
        """The method's module."""
        return str(self.configuration.get("method", ""))

    @cached_property
    def spiking(self) -> bool:
        """False for a reference without time steps."""
        return self.records[0].spiking is not False

    @cached_property
    def time_steps(self) -> int:
        """T."""
        return int(self.records[0].trial.get("time_steps", 1))

    @property
    def selection(self) -> str:
        """Which epoch's weights were scored: 'last', 'best_validation' or 'best_test'."""
        return self.records[0].selection

    @cached_property
    def done(self) -> tuple[Measured, ...]:
        """Records of the seeds that are done."""
        return tuple(record for record in self.records if record.outcome == "done")

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that are done."""
        return tuple(seed(record) for record in self.done)

    @cached_property
    def failures(self) -> tuple[Failure, ...]:
        """Seeds that are not."""
        return tuple(
            Failure(seed(record), record.outcome, record.reason or "no reason given")
            for record in self.records
            if record.outcome != "done"
        )

    @property
    def has_diverged(self) -> bool:
        """Whether training diverged for any seed."""
        return any(failure.outcome == "diverged" for failure in self.failures)

    @cached_property
    def accuracies(self) -> Mapping[int, float]:
        """Seed -> test accuracy after all T steps."""
        return {seed(r): r.accuracy[self.time_steps] for r in self.done if self.time_steps in r.accuracy}

    @cached_property
    def accuracy(self) -> Statistic | None:
        """Test accuracy after all T steps."""
        return means.statistic(record.accuracy.get(self.time_steps) for record in self.done)

    @cached_property
    def anytime(self) -> Mapping[int, Statistic]:
        """t -> test accuracy after t steps."""
        return means.by_key([record.accuracy for record in self.done], means.statistic)

    @cached_property
    def top5(self) -> Statistic | None:
        """The same as `accuracy` for the right class being among the five likeliest."""
        return means.statistic(record.accuracy_top5.get(self.time_steps) for record in self.done)

    @cached_property
    def early_exit(self) -> tuple[EarlyExit, ...]:
        """By rising confidence."""
        return means.early_exit([record.early_exit for record in self.done])

    @cached_property
    def validation(self) -> Statistic | None:
        """What choices are made by."""
        return means.statistic(record.validation_accuracy for record in self.done)

    @cached_property
    def latencies(self) -> tuple[Latency, ...]:
        """Milliseconds a sample, one for each batch size and t: the median over seeds of median, p95 and p99."""
        return means.latencies([entry for cost in self._costs() for entry in cost.latency])

    @cached_property
    def latency(self) -> Latency | None:
        """The one at T steps in the smallest batch measured."""
        return min(self._latencies_at_the_end(), key=lambda entry: entry.batch_size, default=None)

    @cached_property
    def batched(self) -> Latency | None:
        """The one at T steps in the largest batch measured, where that is another one."""
        found = max(self._latencies_at_the_end(), key=lambda entry: entry.batch_size, default=None)
        return found if found is not self.latency else None

    @cached_property
    def processors(self) -> tuple[str, ...]:
        """What latency was measured on, by name where the records know it."""
        return tuple(sorted({_processor(record, entry) for record in self.done for entry in record.cost.latency}))

    @cached_property
    def firing_rate(self) -> float | None:
        """Mean over layers of the fraction of steps in which a neuron spikes."""
        return means.mean(means.mean(cost.firing_rates.values()) for cost in self._costs())

    @cached_property
    def firing_rates(self) -> Mapping[str, float]:
        """Layer -> that fraction."""
        return means.by_key([cost.firing_rates for cost in self._costs()], means.mean)

    @cached_property
    def dead(self) -> Mapping[str, float]:
        """Layer -> fraction of its neurons that no sample made spike."""
        return means.by_key([cost.dead for cost in self._costs()], means.mean)

    @cached_property
    def saturated(self) -> Mapping[str, float]:
        """Layer -> fraction of its neurons that spiked at every step of every sample."""
        return means.by_key([cost.saturated for cost in self._costs()], means.mean)

    @cached_property
    def operations(self) -> Operations | None:
        """As NeuroBench counts them."""
        return means.operations([cost.operations for cost in self._costs() if cost.operations])

    @cached_property
    def synops(self) -> float | None:
        """Accumulates that spikes cause."""
        counts = (cost.operations.Effective_ACs if cost.operations else cost.synops for cost in self._costs())
        return means.mean(counts)

    @cached_property
    def energy(self) -> Energy | None:
        """Estimated, of one inference."""
        return means.energy([cost.energy for cost in self._costs() if cost.energy])

    @cached_property
    def parameters(self) -> float | None:
        """Their number."""
        return means.mean(cost.parameters for cost in self._costs())

    @cached_property
    def neurons(self) -> float | None:
        """Spiking neurons that one sample meets."""
        return means.mean(cost.neurons for cost in self._costs())

    @cached_property
    def peak_memory_bytes(self) -> float | None:
        """Of training."""
        return means.mean(cost.peak_memory_bytes for cost in self._costs())

    @cached_property
    def throughput(self) -> float | None:
        """Training samples a second, over all workers."""
        return means.mean(cost.throughput for cost in self._costs())

    @cached_property
    def train_seconds(self) -> float | None:
        """Training alone, summed over epochs."""
        return means.mean(record.train_seconds for record in self.done)

    @cached_property
    def worker_hours(self) -> float | None:
        """Training and evaluation, summed over workers."""
        return means.mean(cost.worker_hours for cost in self._costs())

    @cached_property
    def accelerator_hours(self) -> float | None:
        """The same, summed over accelerators."""
        return means.mean(cost.accelerator_hours for cost in self._costs())

    @cached_property
    def convergence(self) -> Mapping[str, Mapping[str, Sequence[float]]]:
        """Measure -> layer -> mean over seeds after each of the steps 1..T."""
        return means.convergence([record.convergence for record in self.done if record.convergence])

    @cached_property
    def commits(self) -> tuple[str, ...]:
        """Commits that the records come from, '+' appended where the tree was dirty."""
        return tuple(sorted({f"{r.commit[:7]}{'+' if r.dirty else ''}" for r in self.records if r.commit}))

    def _costs(self) -> Iterator[Cost]:
        return (record.cost for record in self.done)

    def _latencies_at_the_end(self) -> Iterator[Latency]:
        return (entry for entry in self.latencies if entry.time_steps == self.time_steps)


def seed(record: Measured) -> int:
    """The seed of a trial."""
    return int(record.trial.get("seed", 0))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: {'train': {'lr': 0.1}} -> {'train.lr': 0.1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def curve(cell: Cell) -> tuple[str, str, int]:
    """What a chosen cell stands for in its dataset: network, label and T."""
    return cell.network, cell.label, cell.time_steps


def order(cell: Cell) -> tuple:
    """What cells are sorted by."""
    return cell.order


def _processor(record: Measured, latency: Latency) -> str:
    gpus = record.machine.get("gpus") or [None]
    if latency.device[:3].casefold() == "cpu":  # 'CPU, 2 threads'
        return f"{record.machine.get('cpu') or 'CPU'}{latency.device[3:]}"
    return str(gpus[0] or latency.device)


def _comparable(value: Any) -> tuple[float, str]:
    if isinstance(value, int | float):
        return float(value), ""
    return 0.0, value if isinstance(value, str) else canonical(value)


def canonical(value: Any) -> str:
    """JSON in which the order of keys does not matter."""
    return json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
