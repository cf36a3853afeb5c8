"""Sheets -> what the page holds: columns for its table and plots, and the rest of every cell. Pure."""

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.cell import Cell, Statistic
from harness.record import Latency, Record
from harness.sheet import EPOCH_OF, Sheet, condition

CURVES = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy", "test_accuracy")


def key(cell: Cell) -> str:
    """What a cell is called in the page's addresses; stays when records of more seeds come."""
    return hashlib.sha256(cell.key.encode()).hexdigest()[:12]


def table(sheets: Sequence[Sheet]) -> dict[str, Any]:
    """All cells as columns, in order, and the published rows."""
    rows = [_row(sheet, cell) for sheet in sheets for cell in sheet.cells]
    return {
        "datasets": [sheet.dataset for sheet in sheets],
        "epochs": EPOCH_OF,
        "choice": [sheet.dataset for sheet in sheets if sheet.has_choice],
        "columns": {name: [row[name] for row in rows] for name in rows[0]} if rows else {},
        "published": [{**row.model_dump(), "name": row.name} for sheet in sheets for row in sheet.published],
    }


def _row(sheet: Sheet, cell: Cell) -> dict[str, Any]:
    """What the table and the plots show of a cell; None where it was not measured."""
    batched = _batched(cell)
    return {
        "key": key(cell),
        "dataset": cell.dataset,
        "network": cell.network,
        "method": cell.method,
        "label": cell.label,
        "time_steps": cell.time_steps,
        "spiking": cell.spiking,
        "selection": cell.selection,
        "settings": _settings(sheet, cell),
        "accuracy": _statistic(cell.accuracy),
        "top5": _statistic(cell.top5),
        "validation": _statistic(cell.validation),
        "latency": _latency(cell.latency),
        "batched": _latency(batched),
        "condition": " · ".join(dict.fromkeys([cell.latency.device, *cell.processors])) if cell.latency else None,
        "alike": hashlib.sha256(repr(condition(cell)).encode()).hexdigest()[:6] if cell.latency else None,
        "energy": _short(cell.energy.nanojoules if cell.energy else None),
        "energy_memory": _short(_sum(cell.energy.nanojoules, cell.energy.memory_nanojoules) if cell.energy else None),
        "energy_ann": _short(cell.energy.ann_nanojoules if cell.energy else None),
        "synops": _short(cell.synops),
        "firing_rate": _short(cell.firing_rate),
        "parameters": _short(cell.parameters),
        "memory": _short(cell.peak_memory_bytes),
        "train_seconds": _short(cell.train_seconds),
        "seeds": len(cell.ids),
        "failures": _failures(cell),
        "best": cell.key in sheet.best,
        "front_steps": cell.key in sheet.fewest_steps,
        "front_latency": cell.key in sheet.fastest,
    }


def details(sheet: Sheet, cell: Cell, records: Sequence[Record], histories: Sequence[Mapping[str, Any]]) -> str:
    """The rest of a cell as JSON; `records` and their `histories` in the order of its ids."""
    done = [history for record, history in zip(records, histories, strict=True) if record.outcome == "done"]
    content = {
        "seeds": [
            {
                "id": record.id, "seed": record.trial.get("seed", 0), "outcome": record.outcome,
                "reason": record.reason, "accuracy": record.accuracy.get(cell.time_steps),
                "commit": record.commit and record.commit[:7] + ("+" if record.dirty else ""),
            }
            for record in records
        ],
        "configuration": dict(cell.configuration),
        "varying": list(sheet.varying),
        "anytime": [[t, *asdict(found).values()] for t, found in sorted(cell.anytime.items())],
        "early_exit": [exit_.model_dump() for exit_ in cell.early_exit],
        "latencies": [entry.model_dump(exclude_none=True, exclude={"state"}) for entry in cell.latencies],
        "firing_rates": dict(cell.firing_rates), "dead": dict(cell.dead), "saturated": dict(cell.saturated),
        "operations": cell.operations and cell.operations.model_dump(),
        "energy": cell.energy and cell.energy.model_dump(exclude_none=True),
        "neurons": cell.neurons, "throughput": cell.throughput,
        "worker_hours": cell.worker_hours, "accelerator_hours": cell.accelerator_hours,
        "convergence": {measure: dict(layers) for measure, layers in cell.convergence.items()},
        "training": _training(done),
        "processors": cell.processors, "commits": cell.commits,
    }  # fmt: skip
    return json.dumps(_finite(content), separators=(",", ":"), allow_nan=False)


def _settings(sheet: Sheet, cell: Cell) -> str:
    """What tells this row from others of its method: the settings that vary in its dataset."""
    names = [name for name in sheet.varying if name in cell.configuration and name != "selection"]
    return ", ".join(f"{name.removeprefix('settings.')}={_printed(cell.configuration[name])}" for name in names)


def _printed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _failures(cell: Cell) -> list[list]:
    """Outcome, reason and how many seeds, the most frequent first."""
    counts = Counter((failure.outcome, failure.reason) for failure in cell.failures)
    return [[outcome, reason, count] for (outcome, reason), count in counts.most_common()]


def _batched(cell: Cell) -> Latency | None:
    """The latency at T steps in the largest batch, where that is not the smallest."""
    found = [entry for entry in cell.latencies if entry.time_steps == cell.time_steps]
    largest = max(found, key=lambda entry: entry.batch_size, default=None)
    return largest if largest and largest is not cell.latency else None


def _statistic(found: Statistic | None) -> list | None:
    return [_short(found.mean), _short(found.std), found.n] if found else None


def _latency(found: Latency | None) -> list | None:
    return [_short(found.median_ms), _short(found.p95_ms), found.batch_size] if found else None


def _short(value: float | None) -> float | None:
    """Six digits: what a table or a plot can show; the records hold every digit."""
    return None if value is None else float(f"{value:.6g}")


def _sum(first: float, second: float | None) -> float | None:
    return None if second is None else first + second


def _training(histories: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """The mean over seeds of every curve that any seed has, epoch by epoch."""
    epochs_of = [history["epoch"] for history in histories if history]
    if not epochs_of:
        return {}
    numbers: dict[str, list] = {"epoch": max(epochs_of, key=len)}
    for name in CURVES:
        epochs = [_at(histories, name, epoch) for epoch in range(len(numbers["epoch"]))]
        if any(epochs):
            numbers[name] = [statistics.fmean(values) if values else None for values in epochs]
    return numbers


def _at(histories: Sequence[Mapping[str, Any]], name: str, epoch: int) -> list[float]:
    columns = [history[name] for history in histories if len(history.get(name, ())) > epoch]
    return [column[epoch] for column in columns if isinstance(column[epoch], int | float)]


def _finite(content: Any) -> Any:
    """The same without figures that are none: a curve has a gap there, and the record says what it was."""
    if isinstance(content, float):
        return content if content - content == 0 else None
    if isinstance(content, dict):
        return {str(key): _finite(value) for key, value in content.items()}
    return [_finite(value) for value in content] if isinstance(content, list | tuple) else content
