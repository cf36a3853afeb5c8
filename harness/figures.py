"""What programs read: every cell and every published row as named numbers, as CSV or JSON. Pure."""

import csv as stdlib_csv
import io
import json as stdlib_json
from collections.abc import Sequence
from typing import Any

from harness.cell import Cell, Statistic
from harness.markup import clean
from harness.published import Published
from harness.sheet import Sheet


def csv(sheets: Sequence[Sheet], *, anytime: bool) -> str:
    """One row a cell, then one a published figure; the settings that differ between cells have columns of their own.

    A spreadsheet would run a text that begins like a formula, so such a text gets an apostrophe before it.
    """
    rows = [_flat(cell, sheet, anytime) for sheet in sheets for cell in sheet.cells]
    rows += [_published(row) for sheet in sheets for row in sheet.published]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = stdlib_csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell_text(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def json(sheets: Sequence[Sheet], *, anytime: bool) -> str:
    """`{"cells": […], "published": […]}`; a cell has its whole configuration, and nulls where nothing was measured."""
    content = {
        "cells": [
            _figures(cell, sheet)
            | {"seeds": cell.seeds, "configuration": cell.configuration, "commits": cell.commits}
            | ({"anytime": {t: _statistic("accuracy", value) for t, value in cell.anytime.items()}} if anytime else {})
            for sheet in sheets
            for cell in sheet.cells
        ],
        "published": [row.model_dump() for sheet in sheets for row in sheet.published],
    }
    return stdlib_json.dumps(content, indent=1) + "\n"


def _figures(cell: Cell, sheet: Sheet) -> dict[str, Any]:
    """A cell's numbers under the names that CSV and JSON share; None for what was not measured."""
    latency, energy = cell.latency, cell.energy
    return {
        "source": "measured",
        "dataset": cell.dataset,
        "label": cell.label,
        "method": cell.method,
        "network": cell.network,
        "time_steps": cell.time_steps,
        "selection": cell.selection,
        **_statistic("accuracy", cell.accuracy),
        "n": len(cell.seeds),
        **_statistic("validation", cell.validation),
        "latency_median_ms": latency.median_ms if latency else None,
        "latency_p95_ms": latency.p95_ms if latency else None,
        "latency_batch_size": latency.batch_size if latency else None,
        "latency_device": latency.device if latency else None,
        "firing_rate": cell.firing_rate,
        "synops": cell.synops,
        "effective_macs": cell.operations.Effective_MACs if cell.operations else None,
        "energy_nanojoules": energy.nanojoules if energy else None,
        "train_seconds": cell.train_seconds,
        "failures": "; ".join(f"seed {f.seed} {f.outcome}: {f.reason}" for f in cell.failures),
        "num_failures": len(cell.failures),
        "is_best": cell.key in sheet.best,
        "is_pareto_time_steps": cell.key in sheet.fewest_steps,
        "is_pareto_latency": cell.key in sheet.fastest,
    }


def _flat(cell: Cell, sheet: Sheet, anytime: bool) -> dict[str, Any]:
    settings = {key: cell.configuration.get(key) for key in sheet.varying if key != "selection"}
    over_time = {f"accuracy_at_{t}": value.mean for t, value in cell.anytime.items()} if anytime else {}
    return _figures(cell, sheet) | settings | over_time


def _published(row: Published) -> dict[str, Any]:
    return {
        "source": f"published: {row.source}; {row.evidence}",
        "dataset": row.dataset,
        "label": row.name,
        "method": row.method,
        "network": row.network,
        "time_steps": row.time_steps,
        "selection": row.selection,
        "accuracy_mean": row.accuracy,
        "accuracy_std": row.std,
    }


def _statistic(name: str, value: Statistic | None) -> dict[str, float | None]:
    return {f"{name}_mean": value.mean if value else None, f"{name}_std": value.std if value else None}


def _cell_text(value: Any) -> Any:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.10g}"
        case bool() | int():
            return value
        case _:
            text = clean(str(value))
            return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
