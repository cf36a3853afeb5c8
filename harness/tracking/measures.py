"""A record as MLflow knows things: parameters, metrics by step, tags. Pure.

The step of a metric is

- the epoch, for `epoch/…`;
- the time step t, for what one simulation gives after each of its steps: `accuracy_at_t`, `accuracy_top5_at_t`,
  `latency/…`, `convergence/…`;
- T, for what one inference costs: `cost/…`, so that runs of several T make a curve;
- the confidence in thousandths, for `early_exit/…`;
- the number of the look at the machine, for `system/…`, which stands at the time it was taken;
- 0, for totals of the whole trial.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from harness.cell import flatten
from harness.record import Record
from harness.tracking.server import public
from harness.vitals import SECONDS

LONGEST_VALUE = 500
"""Characters of a parameter that every MLflow server takes; longer ones are cut and say so."""


class Point(NamedTuple):
    """One value of a metric."""

    name: str
    value: float
    step: int
    seconds: float = 0.0
    """After the trial's start."""


Values = Mapping[str, float | None]


def params(record: Record) -> dict[str, str]:
    """The trial, flat, as MLflow's parameters: 'settings.v_threshold' -> '1.0'."""
    return {key(name): cut(value if isinstance(value, str) else json.dumps(value, default=str))
            for name, value in flatten(record.trial).items()}  # fmt: skip


def metrics(record: Record) -> list[Point]:
    """Everything measured, under names that MLflow takes. What was not measured is absent."""
    time_steps = int(record.trial.get("time_steps", 0))
    found = [*_epochs(record), *_curves(record), *_system(record)]
    found += _at(0, _totals(record, time_steps)) + _at(time_steps, _inference(record, time_steps))
    return [point._replace(name=key(point.name)) for point in found]


def tags(record: Record) -> dict[str, str]:
    """What a run is found by, and what MLflow's pages show of it."""
    found = {
        "harness.trial": record.id,
        "experiment": record.experiment,
        "outcome": record.outcome,
        "commit": record.commit or "unknown",
        "dirty": str(record.dirty).lower() if record.dirty is not None else "unknown",
        "selection": record.selection,
        "spiking": str(record.spiking is not False).lower(),
        "dataset": str(record.data.get("title", "")),
        "fingerprint": str(record.data.get("fingerprint", "unknown")),
        "machine": ", ".join(map(str, record.machine.get("gpus") or [record.machine.get("cpu", "unknown")])),
        "harness": record.versions.get("harness", "unknown"),
        "schema_version": str(record.schema_version),
    }
    if record.commit:
        found["mlflow.source.git.commit"] = record.commit
    if record.command:
        found |= {"mlflow.source.name": cut(public(record.command)), "mlflow.source.type": "LOCAL"}
    if record.reason:
        reason = public(record.reason)
        found |= {"reason": cut(reason), "mlflow.note.content": cut(f"{record.outcome}: {reason}")}
    return found


def key(name: str) -> str:
    """The name with only what MLflow allows in one."""
    return re.sub(r"[^\w./ :-]", "_", name, flags=re.ASCII)[:250]


def cut(text: str) -> str:
    """The text as long as every server takes it."""
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 12]}… (cut off)"


def _at(step: int, values: Values, seconds: float = 0.0) -> list[Point]:
    return [Point(name, float(value), step, seconds) for name, value in values.items() if value is not None]


def _epochs(record: Record) -> Iterator[Point]:
    passed = 0.0
    for epoch in record.history:
        passed += epoch.seconds + (epoch.evaluation_seconds or 0)
        numbers = epoch.model_dump(exclude={"epoch", "extras"})
        numbers |= {f"extras/{name}": value for name, value in epoch.extras.items()}
        yield from _at(epoch.epoch, {f"epoch/{name}": value for name, value in numbers.items()}, passed)


def _curves(record: Record) -> Iterator[Point]:
    """What there is after each time step of one simulation, and what deciding early makes of it."""
    for name, curve in {"accuracy_at_t": record.accuracy, "accuracy_top5_at_t": record.accuracy_top5}.items():
        yield from (Point(name, value, t) for t, value in sorted(curve.items()))
    for entry in sorted(record.cost.latency, key=lambda entry: entry.time_steps):
        values: Values = {
            "median_ms": entry.median_ms, "p95_ms": entry.p95_ms, "p99_ms": entry.p99_ms,
            "samples_per_second": entry.throughput if entry.median_ms else None,
        }  # fmt: skip
        place = f"latency/batch {entry.batch_size}"
        yield from _at(entry.time_steps, {f"{place}/{name}": value for name, value in values.items()})
    for exit in record.early_exit:
        step = round(1000 * exit.confidence)
        values = {"accuracy": exit.accuracy, "mean_time_steps": exit.mean_time_steps, "confidence": exit.confidence}
        yield from _at(step, {f"early_exit/{name}": value for name, value in values.items()})
    for measure, layers in record.convergence.items():
        for layer, series in layers.items():
            yield from (Point(f"convergence/{measure}/{layer}", value, t) for t, value in enumerate(series, start=1))


def _system(record: Record) -> Iterator[Point]:
    times = record.system.get(SECONDS, [])
    for name, series in record.system.items():
        if name != SECONDS:
            for look, (seconds, value) in enumerate(zip(times, series, strict=False)):
                if value == value:  # NaN: not read then
                    yield Point(f"system/{name}", value, look, seconds)


def _totals(record: Record, time_steps: int) -> Values:
    return {
        "test_accuracy": record.accuracy.get(time_steps),
        "test_accuracy_top5": record.accuracy_top5.get(time_steps),
        "test_loss": record.test_loss,
        "test_samples": record.test_samples,
        "validation_accuracy": record.validation_accuracy,
        "selected_epoch": record.selected_epoch,
        "wall_seconds": record.wall_seconds,
        "restarts": record.restarts,
        "micro_batches": record.micro_batches,
        "training/samples_per_second": record.cost.throughput,
        "training/peak_memory_bytes": record.cost.peak_memory_bytes,
        "training/worker_hours": record.cost.worker_hours,
        "training/accelerator_hours": record.cost.accelerator_hours,
    }


def _inference(record: Record, time_steps: int) -> Values:
    """What one inference of T steps costs, in the field's spelling."""
    cost = record.cost
    found: dict[str, float | None] = {"parameters": cost.parameters, "neurons": cost.neurons, "SynOps": cost.synops}
    if cost.operations:
        found |= {**cost.operations.model_dump(), "SynOps": cost.operations.Effective_ACs}
    else:
        found["MACs"] = cost.macs
    if cost.energy:
        energy = cost.energy.model_dump(include={name for name in type(cost.energy).model_fields if "nano" in name})
        found |= {f"energy_{name}": value for name, value in energy.items()}
    at_end = [entry for entry in cost.latency if entry.time_steps == time_steps]
    if at_end:
        found["latency_ms"] = min(at_end, key=lambda entry: entry.batch_size).median_ms
    layers = {"firing_rate": cost.firing_rates, "dead": cost.dead, "saturated": cost.saturated}
    for name, values in layers.items():
        if values:
            found[f"mean_{name}"] = sum(values.values()) / len(values)
        found |= {f"{name}/{layer}": value for layer, value in values.items()}
    return {f"cost/{name}": value for name, value in found.items()}
