"""A cell: one configuration over its seeds, with the means of what was measured; how cells differ and are sorted."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from harness.record import EarlyExit, Energy, Latency, Operations, Outcome

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Statistic:
    """Mean over seeds with the sample standard deviation; `std` is None for a single seed."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Failure:
    """A seed that did not give a result, and why."""

    seed: int
    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Cell:
    """One configuration over all its seeds: what a row of a table shows.

    Means are over the seeds that are done; a figure that no record holds is None or empty. Accuracies in percent.
    """

    ids: tuple[str, ...]
    """Of all records, in the order of seeds."""
    dataset: str
    """The dataset's printed name."""
    network: str
    """Name and options of the network, as tables print them."""
    method: str
    label: str
    spiking: bool
    time_steps: int
    selection: str
    """Which epoch's weights were scored: 'last', 'best_validation' or 'best_test'."""
    configuration: Mapping[str, Any]
    """The whole trial but its seed, flat: 'settings.v_threshold' -> 1.0."""
    seeds: tuple[int, ...]
    """Seeds that are done."""
    failures: tuple[Failure, ...]
    accuracies: Mapping[int, float]
    """Seed -> test accuracy after all T steps."""
    accuracy: Statistic | None
    """Test accuracy after all T steps."""
    anytime: Mapping[int, Statistic]
    """t -> test accuracy after t steps."""
    top5: Statistic | None
    early_exit: tuple[EarlyExit, ...]
    validation: Statistic | None
    latencies: tuple[Latency, ...]
    """Milliseconds a sample, one for each batch size and t: the median over seeds of median, p95 and p99."""
    firing_rate: float | None
    """Mean over layers of the fraction of steps in which a neuron spikes."""
    firing_rates: Mapping[str, float]
    dead: Mapping[str, float]
    saturated: Mapping[str, float]
    operations: Operations | None
    synops: float | None
    energy: Energy | None
    parameters: float | None
    neurons: float | None
    peak_memory_bytes: float | None
    throughput: float | None
    """Training samples a second, over all workers."""
    train_seconds: float | None
    """Training alone, summed over epochs."""
    worker_hours: float | None
    accelerator_hours: float | None
    convergence: Mapping[str, Mapping[str, Sequence[float]]]
    """Measure -> layer -> mean over seeds after each of the steps 1..T."""
    processors: tuple[str, ...]
    """What latency was measured on, by name where the records know it."""
    commits: tuple[str, ...]
    """Commits that the records come from, '+' appended where the tree was dirty."""

    @property
    def key(self) -> str:
        """What distinguishes this cell from every other one, in canonical form."""
        return canonical([self.dataset, self.selection, self.configuration])

    @property
    def has_diverged(self) -> bool:
        """Whether training diverged for any seed."""
        return any(failure.outcome == "diverged" for failure in self.failures)

    @property
    def latency(self) -> Latency | None:
        """The one at T steps in the smallest batch measured."""
        found = [entry for entry in self.latencies if entry.time_steps == self.time_steps]
        return min(found, key=lambda entry: entry.batch_size, default=None)


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
    """Network, label, T, then the settings, numbers by size."""
    values = [(key, isinstance(value, str), *_comparable(value)) for key, value in sorted(cell.configuration.items())]
    return cell.dataset, *curve(cell), values, cell.key


def _comparable(value: Any) -> tuple[float, str]:
    return (float(value), "") if isinstance(value, int | float) else (0.0, canonical(value))


def canonical(value: Any) -> str:
    """JSON in which the order of keys does not matter."""
    return json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))


def grouped(items: Iterable[Value], key: Callable[[Value], Key]) -> dict[Key, list[Value]]:
    """The items by their key, both in the order in which they come."""
    groups: dict[Key, list[Value]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups
