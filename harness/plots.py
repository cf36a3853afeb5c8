"""Records -> accuracy against time steps and against measured latency, as SVG and PNG, the same bytes every time."""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from harness import published as papers
from harness import select, storage
from harness.cell import Cell
from harness.markup import clean
from harness.published import Published
from harness.record import Record
from harness.sheet import EPOCH_OF, Sheet, condition, milliseconds, sheets

# Okabe and Ito's colours without their yellow, which is too pale for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1)))
GREY = "#666666"
PALE = "#dcdcdc"
FRONT = "Pareto front"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 3.2,
    # A label may hold a dollar sign; it is never a formula.
    "text.parse_math": False,
    "svg.hashsalt": "snn-harness",
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Row:
    """What two panels side by side show: one network on one dataset."""

    sheet: Sheet
    network: str
    best: Sequence[Cell]
    published: Sequence[Published]
    """Those with time steps."""

    @property
    def ordinary(self) -> list[Cell]:
        """The networks without time steps."""
        references = select.references(self.sheet.cells)
        return [cell for cell in self.best if cell.label in references]

    @property
    def spiking(self) -> list[Cell]:
        """The others."""
        return [cell for cell in self.best if cell not in self.ordinary]


@dataclass(frozen=True)
class Curve:
    """A method: its chosen cells by T, and how they are drawn."""

    name: str
    method: str
    cells: Sequence[Cell]
    colour: str
    marker: str
    dashes: Any


def accuracy_against_latency(
    records: Iterable[Record], folder: Path, *, published: Iterable[Published] = ()
) -> list[Path]:
    """Draw every dataset's chosen cells into `accuracy.svg` and `accuracy.png` and return their paths.

    Nothing is drawn, and nothing returned, when no trial has an accuracy.
    """
    panels = [row for sheet in sheets(records, published) for row in _rows(sheet)]
    if not panels:
        return []
    storage.make_folder(folder)
    with matplotlib.rc_context():
        # A reader's own matplotlibrc must not change the files.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = _figure(panels)
        return [_saved(figure, folder / f"accuracy.{suffix}") for suffix in ("svg", "png")]


def _rows(sheet: Sheet) -> list[Row]:
    """One row for each network that has an accuracy; a published figure stands with its network, else in every row."""
    best = [cell for cell in sheet.cells if cell.key in sheet.best]
    networks = sorted({cell.network for cell in best})
    elsewhere = {
        (row, network): any(papers.is_same_name(row.network, other) for other in networks if other != network)
        for row in sheet.published
        for network in networks
    }
    return [
        Row(
            sheet=sheet,
            network=network,
            best=[cell for cell in best if cell.network == network],
            published=[
                row for row in sheet.published if row.time_steps and row.time_steps > 1 and not elsewhere[row, network]
            ],
        )
        for network in networks
    ]


def _saved(figure: Figure, file: Path) -> Path:
    # Neither date nor version, so that a plot drawn again is the same file.
    silent: dict[str, Any] = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}}
    content = io.BytesIO()
    figure.savefig(content, format=file.suffix.removeprefix("."), dpi=160, metadata=silent[file.suffix])
    storage.write_atomic(file, content.getvalue())
    return file


def _figure(rows: Sequence[Row]) -> Figure:
    has_latency = any(cell.latency for row in rows for cell in row.best)
    figure = Figure(figsize=(11 if has_latency else 7, 4.4 * len(rows)), layout="constrained")
    # One label looks the same in every row.
    labels = sorted({(cell.label, cell.selection) for row in rows for cell in row.spiking})
    for place, row in zip(figure.subfigures(len(rows), squeeze=False)[:, 0], rows, strict=True):
        _draw(place, row, _curves(row, labels))
    return figure


def _draw(place: SubFigure, row: Row, curves: Sequence[Curve]) -> None:
    """Accuracy against T on the left, against latency on the right where it was measured."""
    has_latency = any(cell.latency for cell in row.best)
    panels = place.subplots(1, 2 if has_latency else 1, sharey=True, squeeze=False)[0]
    _against_steps(panels[0], row, curves)
    if has_latency:
        _against_latency(panels[1], row, curves)
    for panel in panels:
        for cell in row.ordinary:
            _reference(panel, cell)
    title = clean(f"{row.sheet.dataset}, {row.network}")
    place.suptitle(title, x=0.012, ha="left", fontweight="bold", fontsize=12)
    place.supxlabel(_footnote(row), x=0.012, ha="left", fontsize=8.5, color=GREY)
    bands = [line for panel in panels for line in panel.lines if line.get_label() == FRONT]
    if handles := [*_legend(row, curves), *bands[:1]]:
        place.legend(handles=handles, loc="outside right upper")


def _curves(row: Row, labels: Sequence[tuple[str, str]]) -> list[Curve]:
    """The row's curves; a label's place among all `labels` decides how it looks."""
    with_selection = len({selection for _, selection in labels}) > 1
    curves = []
    for place, (label, selection) in enumerate(labels):
        own = [cell for cell in row.spiking if (cell.label, cell.selection) == (label, selection)]
        if own:
            curve = Curve(
                name=f"{label}, {EPOCH_OF[selection]}" if with_selection else label,
                method=own[0].method,
                cells=sorted(own, key=lambda cell: cell.time_steps),
                colour=COLOURS[place % len(COLOURS)],
                marker=MARKERS[place % len(MARKERS)],
                dashes=DASHES[place % len(DASHES)],
            )
            curves.append(curve)
    return curves


def _against_steps(panel: Axes, row: Row, curves: Sequence[Curve]) -> None:
    _front(panel, row, lambda cell: cell.time_steps)
    for curve in curves:
        _plot(panel, curve, lambda cell: cell.time_steps)
    for quoted in row.published:
        colour, marker, _ = _like_measured(quoted, curves)
        panel.plot(quoted.time_steps or 1, quoted.accuracy, marker, mfc="none", mec=colour, mew=1.3, ms=8, zorder=2.5)
    ticks = {cell.time_steps for cell in row.spiking} | {quoted.time_steps or 1 for quoted in row.published}
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_locator(FixedLocator(_apart(sorted(ticks))))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.set_xlabel("time steps T")
    panel.set_ylabel("top-1 test accuracy (%)")
    panel.margins(x=0.08, y=0.1)


def _against_latency(panel: Axes, row: Row, curves: Sequence[Curve]) -> None:
    if len({condition(cell) for cell in row.spiking if cell.latency}) == 1:
        _front(panel, row, milliseconds)
    for curve in curves:
        _plot(panel, curve, milliseconds)
    for cell in row.ordinary:
        if cell.latency and cell.accuracy:
            panel.plot(cell.latency.median_ms, cell.accuracy.mean, "*", color=GREY, ms=11, zorder=3)
    panel.set_xscale("log")
    low, high = panel.get_xlim()
    # Powers of ten alone would leave a narrow range with a single number on its axis.
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 200 else (1.0,)))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.set_xlabel("latency (ms per sample, median)")
    panel.margins(x=0.08, y=0.1)


def _plot(panel: Axes, curve: Curve, cost: Callable[[Cell], float | None]) -> None:
    """The curve with bars of one standard deviation; none where there is a single seed."""
    points = [(x, cell.accuracy) for cell in curve.cells if cell.accuracy and (x := cost(cell)) is not None]
    panel.errorbar(
        [x for x, _ in points],
        [accuracy.mean for _, accuracy in points],
        yerr=[accuracy.std or 0.0 for _, accuracy in points],
        color=curve.colour, marker=curve.marker, linestyle=curve.dashes, linewidth=1.7, markersize=6.5,
        markeredgecolor="white", markeredgewidth=0.7, capsize=3, elinewidth=1.1, zorder=3,
    )  # fmt: skip


def _front(panel: Axes, row: Row, cost: Callable[[Cell], float | None]) -> None:
    """A broad pale band along the row's Pareto front, under the curves."""
    keys = select.pareto(row.spiking, cost)
    points = sorted((cost(c) or 0.0, c.accuracy.mean) for c in row.spiking if c.key in keys and c.accuracy)
    if len(points) > 1:
        panel.plot(*zip(*points, strict=True), color=PALE, linewidth=11, solid_capstyle="round", zorder=1, label=FRONT)


def _reference(panel: Axes, cell: Cell) -> None:
    """An ordinary network has no time steps: a line across the panel, named on it."""
    if not cell.accuracy:
        return
    panel.axhline(cell.accuracy.mean, color=GREY, linewidth=1.1, linestyle=(0, (8, 3)), zorder=2)
    panel.annotate(
        clean(f"{cell.label} {cell.accuracy.mean:.2f}"), (1.0, cell.accuracy.mean), (-2, 3),
        xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", fontsize=8.5, color=GREY,
    )  # fmt: skip


def _like_measured(row: Published, curves: Sequence[Curve]) -> tuple[str, str, str]:
    """Colour and marker of the measured curve of the same method, else a grey diamond; and the legend's text."""
    for curve in curves:
        if papers.is_same_method(row, curve.method):
            return curve.colour, curve.marker, f"{curve.method}, published"
    return GREY, "d", "others, published"


def _legend(row: Row, curves: Sequence[Curve]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=c.colour, marker=c.marker, ls=c.dashes, lw=1.7, ms=6.5, mec="white", mew=0.7,
               label=clean(c.name))
        for c in curves
    ]  # fmt: skip
    looks = {_like_measured(quoted, curves) for quoted in row.published}
    handles += [
        Line2D([], [], ls="", marker=marker, mfc="none", mec=colour, mew=1.3, ms=8, label=clean(name))
        for colour, marker, name in sorted(looks, key=lambda look: (look[0] == GREY, look[2]))
    ]
    return handles


def _footnote(row: Row) -> str:
    counts = sorted({cell.accuracy.n for cell in row.best if cell.accuracy})
    seeds = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    spread = "one seed, no deviation (n=1)" if counts == [1] else f"mean ± sample std over {seeds} seeds"
    rules = " or ".join(sorted({EPOCH_OF[cell.selection] for cell in row.best}))
    chosen = "; settings chosen by validation accuracy" if row.sheet.has_choice else ""
    lines = [f"{spread}; {rules}{chosen}"]
    conditions = sorted(
        {f"batch of {c.latency.batch_size}, {' and '.join(c.processors)}" for c in row.best if c.latency}
    )
    if conditions:
        warning = " (different conditions, not comparable)" if len(conditions) > 1 else ""
        lines.append(f"latency: {'; '.join(conditions)}{warning}")
    mine = [cell for cell in row.sheet.cells if cell.network == row.network]
    if failed := sum(len(cell.failures) for cell in mine):
        lines.append(f"{failed} {'trial' if failed == 1 else 'trials'} without a result: see the table")
    if undrawn := sorted({cell.label for cell in mine if cell.accuracy} - {cell.label for cell in row.best}):
        lines.append(f"not drawn, for there is no validation accuracy to choose by: {', '.join(undrawn)}")
    return "\n".join(clean(line) for line in lines)


def _apart(ticks: Sequence[int]) -> list[int]:
    """Those ticks of a logarithmic axis whose numbers do not run into each other."""
    kept: list[int] = []
    for tick in ticks:
        if not kept or tick / kept[-1] >= (ticks[-1] / ticks[0]) ** 0.06:
            kept.append(tick)
    return kept
