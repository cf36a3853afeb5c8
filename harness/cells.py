"""Records -> cells, in an order that does not depend on the records' order. Pure."""

import hashlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harness.cell import Cell, Failure, Key, Statistic, Value, canonical, flatten, grouped, order
from harness.record import EarlyExit, Energy, Latency, Operations, Record


def of(records: Iterable[Record]) -> list[Cell]:
    """One cell for each configuration, sorted."""
    once = unique(records)
    titles = {_data(record): str(record.data["title"]) for record in once if record.data.get("title")}
    groups = grouped(once, lambda record: canonical([record.selection, _shared(record)]))
    return sorted((_cell(group, titles) for group in groups.values()), key=order)


def unique(records: Iterable[Record]) -> list[Record]:
    """Every trial once, sorted by seed and id; of several records of one id a finished one, then the latest."""
    chosen: dict[str, Record] = {}
    for record in records:
        known = chosen.get(record.id)
        if known is None or _rank(record) > _rank(known):
            chosen[record.id] = record
    return sorted(chosen.values(), key=lambda record: (_seed(record), record.id))


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
    costs = [record.cost for record in done]
    time_steps = int(first.trial.get("time_steps", 1))
    return Cell(
        ids=tuple(record.id for record in records),
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
        accuracies={_seed(r): r.accuracy[time_steps] for r in done if time_steps in r.accuracy},
        accuracy=statistic(record.accuracy.get(time_steps) for record in done),
        anytime=_by_key([record.accuracy for record in done], statistic),
        top5=statistic(record.accuracy_top5.get(time_steps) for record in done),
        early_exit=_early_exit([record.early_exit for record in done]),
        validation=statistic(record.validation_accuracy for record in done),
        latencies=_latencies([entry for cost in costs for entry in cost.latency]),
        firing_rate=_mean(_mean(cost.firing_rates.values()) for cost in costs),
        firing_rates=_by_key([cost.firing_rates for cost in costs], _mean),
        dead=_by_key([cost.dead for cost in costs], _mean),
        saturated=_by_key([cost.saturated for cost in costs], _mean),
        operations=_operations([cost.operations for cost in costs if cost.operations]),
        synops=_mean(cost.operations.Effective_ACs if cost.operations else cost.synops for cost in costs),
        energy=_energy([cost.energy for cost in costs if cost.energy]),
        parameters=_mean(cost.parameters for cost in costs),
        neurons=_mean(cost.neurons for cost in costs),
        peak_memory_bytes=_mean(cost.peak_memory_bytes for cost in costs),
        throughput=_mean(cost.throughput for cost in costs),
        train_seconds=_mean(sum(epoch.seconds for epoch in record.history) or None for record in done),
        worker_hours=_mean(cost.worker_hours for cost in costs),
        accelerator_hours=_mean(cost.accelerator_hours for cost in costs),
        convergence=_convergence([record.convergence for record in done if record.convergence]),
        processors=tuple(sorted({_processor(record, entry) for record in done for entry in record.cost.latency})),
        commits=tuple(sorted({f"{r.commit[:7]}{'+' if r.dirty else ''}" for r in records if r.commit})),
    )


def _by_key(seeds: Sequence[Mapping[Key, float]], mean: Callable[[Iterable[float | None]], Value | None]) -> Any:
    """The mean over seeds of each key that any of them has, in the order of keys as they come."""
    keys = dict.fromkeys(key for values in seeds for key in values)
    return {key: mean(values.get(key) for values in seeds) for key in keys}


def _early_exit(seeds: Sequence[Sequence[EarlyExit]]) -> tuple[EarlyExit, ...]:
    groups = grouped([entry for entries in seeds for entry in entries], lambda entry: entry.confidence)
    return tuple(
        EarlyExit(
            confidence=confidence,
            mean_time_steps=statistics.fmean(entry.mean_time_steps for entry in groups[confidence]),
            accuracy=statistics.fmean(entry.accuracy for entry in groups[confidence]),
        )
        for confidence in sorted(groups)
    )


def _latencies(measured: Sequence[Latency]) -> tuple[Latency, ...]:
    """One for each batch size and t; those of other devices than the first by name are left out."""
    first = min((entry.device for entry in measured), default=None)
    groups = grouped(
        [entry for entry in measured if entry.device == first], lambda entry: (entry.batch_size, entry.time_steps)
    )
    return tuple(_median(groups[key]) for key in sorted(groups))


def _median(alike: Sequence[Latency]) -> Latency:
    p99 = [entry.p99_ms for entry in alike if entry.p99_ms is not None]
    return Latency(
        batch_size=alike[0].batch_size,
        time_steps=alike[0].time_steps,
        median_ms=statistics.median(entry.median_ms for entry in alike),
        p95_ms=statistics.median(entry.p95_ms for entry in alike),
        p99_ms=statistics.median(p99) if p99 else None,
        repeats=sum(entry.repeats for entry in alike),
        device=alike[0].device,
    )


def _processor(record: Record, latency: Latency) -> str:
    gpus = record.machine.get("gpus") or [None]
    return str((record.machine.get("cpu") if latency.device == "cpu" else gpus[0]) or latency.device)


def _operations(counts: Sequence[Operations]) -> Operations | None:
    if not counts:
        return None
    names = Operations.model_fields
    return Operations(**{name: statistics.fmean(getattr(count, name) for count in counts) for name in names})


def _energy(estimates: Sequence[Energy]) -> Energy | None:
    """The mean of estimates made under the same assumptions; None when they differ, for then it means nothing."""
    assumptions = {(e.mac_picojoules, e.ac_picojoules, e.source, e.memory_source) for e in estimates}
    if len(assumptions) != 1:
        return None
    names = ("nanojoules", "memory_nanojoules", "ann_nanojoules", "ann_memory_nanojoules")
    return estimates[0].model_copy(update={name: _mean(getattr(e, name) for e in estimates) for name in names})


def _convergence(seeds: Sequence[Mapping[str, Mapping[str, Sequence[float]]]]) -> Any:
    """The mean over seeds of every series; seeds of one cell have the same layers and T."""
    if not seeds:
        return {}
    return {
        measure: {
            layer: [statistics.fmean(step) for step in zip(*(seed[measure][layer] for seed in seeds), strict=True)]
            for layer in layers
        }
        for measure, layers in seeds[0].items()
    }


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
    digest = hashlib.sha256(canonical(shared).encode()).hexdigest()[:6]
    return f"{label} T={shared.get('time_steps', 1)} ({digest})"


def _data(record: Record) -> str:
    return canonical({key: value for key, value in _shared(record).items() if key.startswith("dataset")})


def _network(block: Any) -> str:
    if not isinstance(block, Mapping):
        return str(block)
    flat = flatten(block)
    flat = {key.removeprefix("options."): flat[key] for key in sorted(flat)}
    name = str(flat.pop("name", ""))
    return f"{name} ({', '.join(f'{key}={value}' for key, value in flat.items())})" if flat else name


def _rank(record: Record) -> tuple[bool, str, str]:
    return record.outcome == "done", record.started or "", record.model_dump_json()


def _seed(record: Record) -> int:
    return int(record.trial.get("seed", 0))


def _mean(values: Iterable[float | None]) -> float | None:
    found = statistic(values)
    return found.mean if found else None
