"""Records -> the table that a paper would print, as Markdown, CSV, LaTeX, HTML, JSON or for the terminal. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, assert_never

from rich.console import Group, RenderableType

from harness import figures, markup, select
from harness import published as papers
from harness.cell import Cell, Statistic
from harness.markup import Column, Entry, Table
from harness.published import Published
from harness.published import read as published
from harness.record import Record
from harness.sheet import EPOCH_OF, Sheet, sheets

__all__ = ["Format", "published", "render", "terminal"]

Format = Literal["md", "csv", "latex", "html", "json"]

WEIGHTS = {
    "last": "weights after the last epoch",
    "best_validation": "weights of the epoch with the best validation accuracy",
    "best_test": "weights of the epoch with the best TEST accuracy, which is optimistic",
}


def render(
    records: Iterable[Record], format: Format, *, published: Iterable[Published] = (), anytime: bool = False
) -> str:
    """The records as text, one table for each dataset (CSV and JSON: one for all).

    `anytime` adds the accuracy after t of the T steps, for the networks with the largest T.
    """
    found = sheets(records, published)
    match format:
        case "md":
            return "\n".join(map(markup.markdown, _tables(found, anytime))) or "No records.\n"
        case "latex":
            return "\n".join(map(markup.latex, _tables(found, anytime))) or "% No records.\n"
        case "html":
            return markup.STYLE + "".join(map(markup.html, _tables(found, anytime)))
        case "csv":
            return figures.csv(found, anytime=anytime)
        case "json":
            return figures.json(found, anytime=anytime)
        case _:
            assert_never(format)


def terminal(
    records: Iterable[Record], *, published: Iterable[Published] = (), anytime: bool = False
) -> RenderableType:
    """The same tables for rich."""
    return Group(*map(markup.terminal, _tables(sheets(records, published), anytime)))


def _tables(sheets: Iterable[Sheet], anytime: bool) -> list[Table]:
    found = []
    for sheet in sheets:
        found.append(_table(sheet))
        if anytime and (extra := _anytime(sheet)):
            found.append(extra)
    return found


def _table(sheet: Sheet) -> Table:
    shown = _columns(sheet)
    texts = [[value(cell) for _, value in shown] for cell in sheet.cells]
    kept = [index for index in range(len(shown)) if any(row[index] for row in texts)]
    columns = [shown[index][0] for index in kept]
    rows = [[Entry(row[i] or "–", _is_bold(sheet, cell, columns[k])) for k, i in enumerate(kept)]
            for cell, row in zip(sheet.cells, texts, strict=True)]  # fmt: skip
    sources = _sources(sheet)
    quoted = [_published_texts(row, sources) for row in sheet.published]
    return Table(
        title=sheet.dataset,
        caption=_caption(sheet),
        columns=columns,
        rows=rows,
        published=[[Entry(texts.get(column.title, "–")) for column in columns] for texts in quoted],
        notes=[*_notes(sheet), *(f"[{number}] {text}" for text, number in _numbers(sources).items())],
    )


def _columns(sheet: Sheet) -> list[tuple[Column, Callable[[Cell], str]]]:
    """Every column and how a cell fills it; an empty text means that nothing was measured."""
    settings = [
        (Column(key.removeprefix("settings."), is_number=True), partial(_setting, key=key)) for key in sheet.varying
    ]
    return [
        (Column("Method"), lambda cell: cell.label),
        *settings,
        (Column("Network"), lambda cell: cell.network),
        (Column("T", True), lambda c: f"{c.time_steps}{' ◆' if c.key in sheet.fewest_steps else ''}"),
        (Column("Accuracy %", True), lambda cell: _accuracy(cell, sheet)),
        (Column("Validation %", True), lambda cell: f"{cell.validation.mean:.2f}" if cell.validation else ""),
        (Column("Latency ms/sample", True), lambda cell: _latency(cell, sheet)),
        (Column("Firing rate %", True), lambda c: "" if c.firing_rate is None else _digits(100 * c.firing_rate)),
        (Column("SynOps", True), lambda cell: "" if cell.synops is None else _large(cell.synops)),
        (Column("Energy nJ", True), lambda cell: _digits(cell.energy.nanojoules) if cell.energy else ""),
        (Column("Train s", True), lambda cell: "" if cell.train_seconds is None else _digits(cell.train_seconds)),
        (Column("Failed"), _failed),
    ]


def _is_bold(sheet: Sheet, cell: Cell, column: Column) -> bool:
    return column.title == "Accuracy %" and sheet.has_choice and cell.key in sheet.best


def _accuracy(cell: Cell, sheet: Sheet) -> str:
    star = " ★" if sheet.has_choice and cell.key in sheet.best else ""
    return _spread(cell.accuracy) + star if cell.accuracy else ""


def _latency(cell: Cell, sheet: Sheet) -> str:
    if not cell.latency:
        return ""
    return _digits(cell.latency.median_ms) + (" ◆" if cell.key in sheet.fastest else "")


def _failed(cell: Cell) -> str:
    counts = Counter(failure.outcome for failure in cell.failures)
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))


def _setting(cell: Cell, key: str) -> str:
    if key not in cell.configuration:
        return ""
    value = cell.configuration[key]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _sources(sheet: Sheet) -> dict[Published, str]:
    """Published row -> where it is from, how it was got and what differs from here."""
    return {
        row: "; ".join(
            [
                f"published in {row.source} ({row.evidence})",
                EPOCH_OF[row.selection],
                *_differences(row, sheet.cells),
                *([row.note] if row.note else []),
            ]
        )
        for row in sheet.published
    }


def _numbers(sources: Mapping[Published, str]) -> dict[str, int]:
    """Text of a source -> its number in the notes."""
    return {text: number for number, text in enumerate(dict.fromkeys(sources.values()), start=1)}


def _published_texts(row: Published, sources: Mapping[Published, str]) -> dict[str, str]:
    """Column -> text of a published row."""
    return {
        "Method": f"{row.name}, published [{_numbers(sources)[sources[row]]}]",
        "Network": row.network,
        "T": str(row.time_steps or "–"),
        "Accuracy %": f"{row.accuracy:.2f}" if row.std is None else f"{row.accuracy:.2f} ± {row.std:.2f}",
    }


def _differences(row: Published, cells: Sequence[Cell]) -> list[str]:
    """In what a published figure was got otherwise than those measured with the same method."""
    alike = [cell for cell in cells if papers.is_same_method(row, cell.method)]
    if not alike:
        return ["method not measured here"]
    differs = {
        "network": not any(papers.is_same_name(row.network, cell.network) for cell in alike),
        "T": row.time_steps not in {cell.time_steps for cell in alike},
        "choice of the epoch": row.selection not in {cell.selection for cell in alike} | {"unknown"},
    }
    named = [name for name, is_different in differs.items() if is_different]
    return [f"other {', '.join(named)} than here"] if named else []


def _caption(sheet: Sheet) -> str:
    counts = {cell.accuracy.n for cell in sheet.cells if cell.accuracy}
    if counts <= {1}:
        spread = "of a single seed (n=1)"
    elif len(counts) == 1:
        spread = f"mean ± sample standard deviation over n = {counts.pop()} seeds"
    else:
        spread = "mean ± sample standard deviation over seeds (their number)"
    rules = " or ".join(_rule(rule) for rule in sorted({cell.selection for cell in sheet.cells}))
    return f"Top-1 test accuracy in percent, {spread}; {rules}."


def _rule(selection: str) -> str:
    return f"{selection}: {WEIGHTS[selection]}"


def _notes(sheet: Sheet) -> list[str]:
    notes = []
    if sheet.has_choice:
        notes.append(
            "★ best mean validation accuracy of its method, network and T (with a diverged seed only if all have one)"
        )
    if sheet.fewest_steps or sheet.fastest:
        notes.append(
            "◆ Pareto-optimal among all chosen spiking networks: none is as accurate with fewer time steps (mark at T) "
            "or with lower latency (mark at the latency)"
        )
    unchosen = sorted({cell.label for cell in sheet.cells if cell.accuracy and not cell.validation})
    if sheet.has_choice and unchosen:
        notes.append(f"no validation accuracy, so not chosen by it: {', '.join(unchosen)}")
    notes += [*_start_notes(sheet), *_latency_notes(sheet), *_energy_notes(sheet)]
    for cell in sheet.cells:
        notes += [f"{_name(cell, sheet)}, seed {f.seed} {f.outcome}: {f.reason}" for f in cell.failures]
    commits = sorted({commit for cell in sheet.cells for commit in cell.commits})
    if commits:
        notes.append(
            f"commit {', '.join(commits)}{' (+: with uncommitted changes)' if '+' in ''.join(commits) else ''}"
        )
    return notes


def _start_notes(sheet: Sheet) -> list[str]:
    """Which methods did not begin with fresh weights: what their start cost stands in the row of the other method."""
    starts = {(cell.label, cell.configuration["start"]) for cell in sheet.cells if "start" in cell.configuration}
    return [
        f"{label} starts from the weights of {origin}, whose training comes on top" for label, origin in sorted(starts)
    ]


def _latency_notes(sheet: Sheet) -> list[str]:
    texts = sorted({f"batch of {c.latency.batch_size}, {' and '.join(c.processors)}" for c in sheet.cells if c.latency})
    if len(texts) > 1:
        return [f"latency: median, measured under different conditions, not comparable: {'; '.join(texts)}"]
    return [f"latency: median over calls; {text}" for text in texts]


def _energy_notes(sheet: Sheet) -> list[str]:
    energies = {(c.energy.mac_picojoules, c.energy.ac_picojoules, c.energy.source) for c in sheet.cells if c.energy}
    return [
        f"energy: estimated, compute only, {mac:g} pJ a multiply-accumulate, {ac:g} pJ an accumulate ({source})"
        for mac, ac, source in sorted(energies)
    ]


def _name(cell: Cell, sheet: Sheet) -> str:
    settings = [f"{key.removeprefix('settings.')} = {text}" for key in sheet.varying if (text := _setting(cell, key))]
    return ", ".join([cell.label, cell.network, f"T = {cell.time_steps}", *settings])


def _anytime(sheet: Sheet) -> Table | None:
    """Accuracy after t steps of the chosen networks with the largest T; None where nothing was measured."""
    cells = select.largest_time_steps(cell for cell in sheet.cells if cell.key in sheet.best)
    if not cells:
        return None
    steps = _some_steps(cells)
    columns = [Column("Method"), Column("Network"), Column("T", True), *(Column(f"t = {t}", True) for t in steps)]
    rows = [
        [cell.label, cell.network, str(cell.time_steps), *(_spread(cell.anytime.get(t)) for t in steps)]
        for cell in cells
    ]
    return Table(
        title=f"{sheet.dataset}, accuracy over time",
        caption="Top-1 test accuracy after t of the T steps that a network was trained for; one simulation for all t.",
        columns=columns,
        rows=[[Entry(text or "–") for text in row] for row in rows],
    )


def _some_steps(cells: Sequence[Cell]) -> list[int]:
    """Powers of two and every T: enough to see the curve, few enough for a page."""
    measured = {t for cell in cells for t in cell.anytime}
    return sorted({t for t in measured if t & (t - 1) == 0} | {cell.time_steps for cell in cells} & measured)


def _spread(value: Statistic | None) -> str:
    if value is None:
        return ""
    if value.std is None:
        return f"{value.mean:.2f} (n=1)"
    return f"{value.mean:.2f} ± {value.std:.2f} ({value.n})"


def _digits(value: float) -> str:
    """Three significant digits, never an exponent."""
    if value == 0:
        return "0"
    decimals = next((places for limit, places in ((100, 0), (10, 1), (1, 2), (0.1, 3)) if abs(value) >= limit), 4)
    return f"{value:.{decimals}f}"


def _large(value: float) -> str:
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{_digits(value / limit)} {letter}"
    return _digits(value)
