"""What programs read: every cell and every published row as named numbers, as CSV or JSON. Pure."""

import csv as stdlib_csv
import io
import json as stdlib_json
from collections.abc import Sequence
from typing import Any

from harness import columns, quoted
from harness.cell import Cell
from harness.columns import Measure
from harness.markup import clean
from harness.published import Published
from harness.sheet import Sheet


def csv(sheets: Sequence[Sheet], measures: Sequence[str] = (), *, anytime: bool) -> str:
    """One row a cell, then one a published figure; the settings that differ between cells have columns of their own.

    The columns are those of `measures`, or all: of what was not measured they are empty. A spreadsheet would run a text
    that begins like a formula, so such a text gets an apostrophe before it.
    """
    asked = _asked(measures)
    rows = [_flat(cell, sheet, asked, anytime) for sheet in sheets for cell in sheet.cells]
    rows += [_published(row, sheet) for sheet in sheets for row in sheet.published]
    heads = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = stdlib_csv.writer(text, lineterminator="\n")
    writer.writerow(map(_cell_text, heads))
    writer.writerows([_cell_text(row.get(key)) for key in heads] for row in rows)
    return text.getvalue()


def json(sheets: Sequence[Sheet], measures: Sequence[str] = (), *, anytime: bool) -> str:
    """`{"cells": […], "published": […]}`; a cell has its whole configuration, and nulls where nothing was measured."""
    asked = _asked(measures)
    content = {
        "cells": [
            _figures(cell, sheet, asked)
            | {"seeds": cell.seeds, "configuration": cell.configuration, "commits": cell.commits}
            | (
                {"anytime": {t: {"accuracy_mean": v.mean, "accuracy_std": v.std} for t, v in cell.anytime.items()}}
                if anytime
                else {}
            )
            for sheet in sheets
            for cell in sheet.cells
        ],
        "published": [
            row.model_dump() | {"differences": quoted.differences(row, sheet.cells)}
            for sheet in sheets
            for row in sheet.published
        ],
    }
    return stdlib_json.dumps(content, indent=1) + "\n"


def _asked(names: Sequence[str]) -> list[Measure]:
    return columns.chosen(names or columns.NAMES)


def _figures(cell: Cell, sheet: Sheet, measures: Sequence[Measure]) -> dict[str, Any]:
    """A cell's numbers under the names that CSV and JSON share; None for what was not measured."""
    found: dict[str, Any] = {
        "source": "measured",
        "dataset": cell.dataset,
        "label": cell.label,
        "method": cell.method,
        "network": cell.network,
        "time_steps": cell.time_steps,
        "selection": cell.selection,
    }
    for measure in measures:
        found |= measure.figures(cell, sheet)
    return found | {
        "is_best": cell.key in sheet.best,
        "is_pareto_time_steps": cell.key in sheet.fewest_steps,
        "is_pareto_latency": cell.key in sheet.fastest,
    }


def _flat(cell: Cell, sheet: Sheet, measures: Sequence[Measure], anytime: bool) -> dict[str, Any]:
    settings = {key: cell.configuration.get(key) for key in sheet.varying if key != "selection"}
    over_time = {f"accuracy_at_{t}": value.mean for t, value in cell.anytime.items()} if anytime else {}
    return _figures(cell, sheet, measures) | settings | over_time


def _published(row: Published, sheet: Sheet) -> dict[str, Any]:
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
        "differences": "; ".join(quoted.differences(row, sheet.cells)),
    }


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
