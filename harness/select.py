"""Records -> cells (one configuration over its seeds) -> the chosen ones. Choices look at validation accuracy only."""

import hashlib
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from harness.record import Energy, Latency, Outcome, Record

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

    Means are over the seeds that are done; a figure that no record holds is None. Accuracies in percent.
    """

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
    accuracy: Statistic | None
    """Test accuracy after all T steps."""
    anytime: Mapping[int, Statistic]
    """t -> test accuracy after t steps."""
    validation: Statistic | None
    latency: Latency | None
    """Milliseconds a sample at T steps, in the smallest batch measured; the median over seeds of median and p95."""
    firing_rate: float | None
    """Mean over layers of the fraction of steps in which a neuron spikes."""
    synops: float | None
    macs: float | None
    energy: Energy | None
    train_seconds: float | None
    """Training alone, summed over epochs."""
    processors: tuple[str, ...]
    """What latency was measured on, by name where the records know it."""
    commits: tuple[str, ...]
    """Commits that the records come from, '+' appended where the tree was dirty."""

    @property
    def key(self) -> str:
        """What distinguishes this cell from every other one, in canonical form."""
        return _canonical([self.dataset, self.selection, self.configuration])

    @property
    def has_diverged(self) -> bool:
        """Whether training diverged for any seed."""
        return any(failure.outcome == "diverged" for failure in self.failures)


def cells(records: Iterable[Record]) -> list[Cell]:
    """One cell for each configuration, in an order that does not depend on the records' order."""
    once = unique(records)
    titles = {_data(record): str(record.data["title"]) for record in once if record.data.get("title")}
    grouped = _grouped(once, lambda record: _canonical([record.selection, _shared(record)]))
    return sorted((_cell(group, titles) for group in grouped.values()), key=_order)


def unique(records: Iterable[Record]) -> list[Record]:
    """Every trial once, sorted by seed and id; of several records of one id a finished one, then the latest."""
    chosen: dict[str, Record] = {}
    for record in records:
        known = chosen.get(record.id)
        if known is None or _rank(record) > _rank(known):
            chosen[record.id] = record
    return sorted(chosen.values(), key=lambda record: (_seed(record), record.id))


def best(cells: Iterable[Cell]) -> list[Cell]:
    """For each dataset, network, label, T and selection rule the cell with the best mean validation accuracy.

    A cell in which a seed diverged is chosen only when it did in all of them. Where there is a choice and nothing was
    validated, nothing is chosen: the test accuracy never decides.
    """
    grouped = _grouped(
        (cell for cell in cells if cell.accuracy), lambda cell: (cell.dataset, cell.selection, *_curve(cell))
    )
    return sorted(chain.from_iterable(_best_of(group) for group in grouped.values()), key=_order)


def pareto(cells: Iterable[Cell], cost: Callable[[Cell], float | None]) -> set[str]:
    """Keys of the cells that no other cell beats: none is as accurate at a lower cost, or better at the same."""
    points = [
        (cost_, cell.accuracy.mean, cell.key) for cell in cells if cell.accuracy and (cost_ := cost(cell)) is not None
    ]
    return {
        key
        for cost_, accuracy, key in points
        if not any(c <= cost_ and a >= accuracy and (c, a) != (cost_, accuracy) for c, a, _ in points)
    }


def references(cells: Sequence[Cell]) -> set[str]:
    """Labels of methods that have no time steps, such as an ordinary network."""
    return {cell.label for cell in cells if not cell.spiking}


def varying(cells: Sequence[Cell]) -> list[str]:
    """Keys of the configuration that tell rows apart, sorted.

    A setting of the method or of its training counts when it differs between cells of one label; anything about the
    data or the selection rule when it differs between any two cells; where it starts from when it differs between
    cells of one label, network and T.
    """
    of_label = _differing(cells, lambda cell: cell.label, ("settings.", "train.", "workers"))
    of_curve = _differing(cells, _curve, ("start",))
    return sorted(of_label | of_curve | _differing(cells, lambda cell: None, ("dataset.", "selection")))


def largest_time_steps(cells: Iterable[Cell]) -> list[Cell]:
    """Of each dataset, network and label the cells with the largest T, where accuracy over time was measured."""
    grouped = _grouped(cells, lambda cell: (cell.dataset, cell.network, cell.label))
    longest = {key: max(cell.time_steps for cell in group) for key, group in grouped.items()}
    chosen = [cell for key, group in grouped.items() for cell in group if cell.time_steps == longest[key]]
    return sorted((cell for cell in chosen if len(cell.anytime) > 1), key=_order)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: {'train': {'lr': 0.1}} -> {'train.lr': 0.1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def statistic(values: Iterable[float | None]) -> Statistic | None:
    """Mean, sample standard deviation and count of the values that are there; None without any."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Statistic(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def _cell(records: Sequence[Record], titles: Mapping[str, str]) -> Cell:
    """The cell of records that differ in nothing but the seed; `titles` maps a dataset's options to its title."""
    first = records[0]
    configuration = _shared(first)
    done = [record for record in records if record.outcome == "done"]
    time_steps = int(first.trial.get("time_steps", 1))
    steps = sorted({t for record in done for t in record.accuracy})
    return Cell(
        # A trial that failed before it had read its data knows no title; the others do.
        dataset=titles.get(_data(first)) or str(configuration.get("dataset.name", "")),
        network=_network(first.trial.get("network", "")),
        method=str(configuration.get("method", "")),
        label=configuration["label"],
        spiking=first.spiking is not False,
        time_steps=time_steps,
        selection=first.selection,
        configuration=configuration,
        seeds=tuple(_seed(record) for record in done),
        failures=tuple(
            Failure(_seed(record), record.outcome, record.reason or "no reason given")
            for record in records
            if record.outcome != "done"
        ),
        accuracy=statistic(record.accuracy.get(time_steps) for record in done),
        anytime={t: value for t in steps if (value := statistic(record.accuracy.get(t) for record in done))},
        validation=statistic(record.validation_accuracy for record in done),
        latency=_latency([entry for record in done for entry in record.cost.latency], time_steps),
        firing_rate=_mean(_mean(record.cost.firing_rates.values()) for record in done),
        synops=_mean(record.cost.synops for record in done),
        macs=_mean(record.cost.macs for record in done),
        energy=_energy([record.cost.energy for record in done if record.cost.energy]),
        train_seconds=_mean(sum(epoch.seconds for epoch in record.history) or None for record in done),
        processors=tuple(sorted({_processor(record, entry) for record in done for entry in record.cost.latency})),
        commits=tuple(sorted({f"{r.commit[:7]}{'+' if r.dirty else ''}" for r in records if r.commit})),
    )


def _latency(measured: Sequence[Latency], time_steps: int) -> Latency | None:
    entries = [entry for entry in measured if entry.time_steps == time_steps]
    if not entries:
        return None
    first = min(entries, key=lambda entry: (entry.batch_size, entry.device))
    alike = [entry for entry in entries if (entry.batch_size, entry.device) == (first.batch_size, first.device)]
    return Latency(
        batch_size=first.batch_size,
        time_steps=time_steps,
        median_ms=statistics.median(entry.median_ms for entry in alike),
        p95_ms=statistics.median(entry.p95_ms for entry in alike),
        repeats=sum(entry.repeats for entry in alike),
        device=first.device,
    )


def _processor(record: Record, latency: Latency) -> str:
    gpus = record.machine.get("gpus") or [None]
    return str((record.machine.get("cpu") if latency.device == "cpu" else gpus[0]) or latency.device)


def _energy(estimates: Sequence[Energy]) -> Energy | None:
    """The mean of estimates made under the same assumptions; None when they differ, for then it means nothing."""
    assumptions = {(energy.mac_picojoules, energy.ac_picojoules, energy.source) for energy in estimates}
    if len(assumptions) != 1:
        return None
    return estimates[0].model_copy(update={"nanojoules": statistics.fmean(energy.nanojoules for energy in estimates)})


def _best_of(group: Sequence[Cell]) -> list[Cell]:
    if len(group) == 1:
        return list(group)
    validated = [(cell, cell.validation.mean) for cell in group if cell.validation]
    return [min(validated, key=lambda pair: (pair[0].has_diverged, -pair[1], pair[0].key))[0]] if validated else []


def _differing(cells: Sequence[Cell], group: Callable[[Cell], object], prefixes: tuple[str, ...]) -> set[str]:
    """Keys with one of the prefixes whose values differ within any of the groups."""
    found: set[str] = set()
    for members in _grouped(cells, group).values():
        keys = {key for cell in members for key in cell.configuration if key.startswith(prefixes)}
        found |= {key for key in keys if len({_canonical(cell.configuration.get(key)) for cell in members}) > 1}
    return found


def _shared(record: Record) -> dict[str, Any]:
    """What all records of a cell have in common."""
    return _configuration(record.trial)


def _configuration(trial: Mapping[str, Any]) -> dict[str, Any]:
    """The flat trial without what may differ inside a cell: the seed, how batches are fed; under `start` its start."""
    flat = flatten({key: value for key, value in trial.items() if key != "start"})
    flat["label"] = str(flat.get("label") or flat.get("method", ""))
    if start := trial.get("start"):
        flat["start"] = _start(start)
    return {key: flat[key] for key in sorted(flat) if key not in ("seed", "dataset.loader")}


def _start(trial: Mapping[str, Any]) -> str:
    """The trial that another starts from, in short; two that differ in more than the seed differ here."""
    shared = _configuration(trial)
    label = shared.pop("label")
    digest = hashlib.sha256(_canonical(shared).encode()).hexdigest()[:6]
    return f"{label} T={shared.get('time_steps', 1)} ({digest})"


def _data(record: Record) -> str:
    return _canonical({key: value for key, value in _shared(record).items() if key.startswith("dataset")})


def _network(block: Any) -> str:
    if not isinstance(block, Mapping):
        return str(block)
    flat = flatten(block)
    flat = {key.removeprefix("options."): flat[key] for key in sorted(flat)}
    name = str(flat.pop("name", ""))
    return f"{name} ({', '.join(f'{key}={value}' for key, value in flat.items())})" if flat else name


def _curve(cell: Cell) -> tuple[str, str, int]:
    return cell.network, cell.label, cell.time_steps


def _order(cell: Cell) -> tuple:
    """Network, label, T, then the settings, numbers by size."""
    values = [(key, isinstance(value, str), *_comparable(value)) for key, value in sorted(cell.configuration.items())]
    return cell.dataset, *_curve(cell), values, cell.key


def _comparable(value: Any) -> tuple[float, str]:
    return (float(value), "") if isinstance(value, int | float) else (0.0, _canonical(value))


def _rank(record: Record) -> tuple[bool, str, str]:
    return record.outcome == "done", record.started or "", record.model_dump_json()


def _seed(record: Record) -> int:
    return int(record.trial.get("seed", 0))


def _mean(values: Iterable[float | None]) -> float | None:
    found = statistic(values)
    return found.mean if found else None


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))


def _grouped(items: Iterable[Value], key: Callable[[Value], Key]) -> dict[Key, list[Value]]:
    groups: dict[Key, list[Value]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups
