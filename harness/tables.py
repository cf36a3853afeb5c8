"""Records -> the table that a paper would print, as Markdown, CSV, LaTeX, HTML, JSON or for the terminal. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, assert_never

from rich.console import Group, RenderableType

from harness import columns, figures, markup, quoted, remarks, select
from harness.cell import Cell, Measured
from harness.columns import Measure
from harness.markup import Column, Entry, Table
from harness.numerals import setting, spread
from harness.published import Published
from harness.sheet import Sheet, sheets

Format = Literal["md", "csv", "latex", "html", "json"]


def render(
    records: Iterable[Measured], format: Format, *, published: Iterable[Published] = (), anytime: bool = False
) -> str:
    """The records as text, one table for each dataset (CSV and JSON: one for all), with the default columns.

    `anytime` adds the accuracy after t of the T steps, for the networks with the largest T.
    """
    return written(sheets(records, published), format, anytime=anytime)


def written(found: Sequence[Sheet], format: Format, *, measures: Sequence[str] = (), anytime: bool = False) -> str:
    """The sheets as text, with these columns (`harness.columns`), or with the default ones; CSV and JSON with all.

    Raises ValueError for a column that is none.
    """
    match format:
        case "md":
            return "\n".join(map(markup.markdown, _tables(found, measures, anytime))) or "No records.\n"
        case "latex":
            return "\n".join(map(markup.latex, _tables(found, measures, anytime))) or "% No records.\n"
        case "html":
            return markup.STYLE + "".join(map(markup.html, _tables(found, measures, anytime)))
        case "csv":
            return figures.csv(found, measures, anytime=anytime)
        case "json":
            return figures.json(found, measures, anytime=anytime)
        case _:
            assert_never(format)


def terminal(
    records: Iterable[Measured], *, published: Iterable[Published] = (), anytime: bool = False
) -> RenderableType:
    """The same tables for rich."""
    return shown(sheets(records, published), anytime=anytime)


def shown(found: Sequence[Sheet], *, measures: Sequence[str] = (), anytime: bool = False) -> RenderableType:
    """The sheets for rich."""
    return Group(*map(markup.terminal, _tables(found, measures, anytime)))


def _tables(sheets: Iterable[Sheet], names: Sequence[str], anytime: bool) -> list[Table]:
    measures = columns.chosen(names)
    found = []
    for sheet in sheets:
        found.append(_table(sheet, measures))
        if anytime and (extra := _anytime(sheet)):
            found.append(extra)
    return found


def _table(sheet: Sheet, measures: Sequence[Measure]) -> Table:
    shown = _identity(sheet)
    shown += [(measure.column, partial(_measured, measure=measure, sheet=sheet)) for measure in measures]
    texts = [[value(cell) for _, value in shown] for cell in sheet.cells]
    # Method and T stay where nothing was measured; a column that nothing fills does not.
    kept = [index for index in range(len(shown)) if any(row[index] for row in texts)]
    heads = [shown[index][0] for index in kept]
    rows = [[Entry(row[i] or "–", _is_bold(sheet, cell, heads[k])) for k, i in enumerate(kept)]
            for cell, row in zip(sheet.cells, texts, strict=True)]  # fmt: skip
    sources = quoted.sources(sheet)
    numbers = quoted.numbers(sources)
    others = [quoted.entries(row, numbers[sources[row]]) for row in sheet.published]
    return Table(
        title=sheet.title or sheet.dataset,
        caption=remarks.caption(sheet),
        columns=heads,
        rows=rows,
        published=[[Entry(texts.get(column.title, "–")) for column in heads] for texts in others],
        notes=[
            *remarks.notes(sheet, {measure.name for measure in measures}),
            *(f"[{number}] {text}" for text, number in numbers.items()),
        ],
    )


def _identity(sheet: Sheet) -> list[tuple[Column, Callable[[Cell], str]]]:
    """The columns that say which cell a row is about, but for what the title says."""
    several = len({cell.dataset for cell in sheet.cells}) > 1
    settings = [
        (Column(key.removeprefix("settings."), is_number=True), partial(_setting, key=key)) for key in sheet.varying
    ]
    named: Mapping[str, Sequence[tuple[Column, Callable[[Cell], str]]]] = {
        "dataset": [(Column("Dataset"), lambda cell: cell.dataset)] if several else [],
        # Methods that are named in the title still head the rows of the published figures.
        "method": [(Column("Method"), lambda cell: cell.label)],
        "settings": settings,
        "network": [(Column("Network"), lambda cell: cell.network)],
        "time_steps": [(Column("T", True), lambda c: f"{c.time_steps}{' ◆' if c.key in sheet.fewest_steps else ''}")],
    }
    return [column for key, some in named.items() for column in some if key == "method" or key not in sheet.by]


def _measured(cell: Cell, *, measure: Measure, sheet: Sheet) -> str:
    return measure.text(cell, sheet)


def _setting(cell: Cell, key: str) -> str:
    return setting(cell.configuration[key]) if key in cell.configuration else ""


def _is_bold(sheet: Sheet, cell: Cell, column: Column) -> bool:
    return column.title == "Accuracy %" and sheet.has_choice and cell.key in sheet.best


def _anytime(sheet: Sheet) -> Table | None:
    """Accuracy after t steps of the chosen networks with the largest T; None where nothing was measured."""
    cells = select.largest_time_steps(cell for cell in sheet.cells if cell.key in sheet.best)
    if not cells:
        return None
    steps = _some_steps(cells)
    columns = [Column("Method"), Column("Network"), Column("T", True), *(Column(f"t = {t}", True) for t in steps)]
    rows = [
        [cell.label, cell.network, str(cell.time_steps), *(spread(cell.anytime.get(t)) for t in steps)]
        for cell in cells
    ]
    return Table(
        title=f"{sheet.title or sheet.dataset}, accuracy over time",
        caption="Top-1 test accuracy after t of the T steps that a network was trained for; one simulation for all t.",
        columns=columns,
        rows=[[Entry(text or "–") for text in row] for row in rows],
    )


def _some_steps(cells: Sequence[Cell]) -> list[int]:
    """Powers of two and every T: enough to see the curve, few enough for a page."""
    measured = {t for cell in cells for t in cell.anytime}
    return sorted({t for t in measured if t & (t - 1) == 0} | {cell.time_steps for cell in cells} & measured)
