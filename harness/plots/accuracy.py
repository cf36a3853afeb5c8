"""Accuracy against what it takes: time steps, measured latency, estimated energy, synaptic operations."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from harness import published as papers
from harness import select
from harness.cell import Cell
from harness.plots.canvas import Block
from harness.plots.row import Curve, Row
from harness.plots.style import GREY, ORDINARY, PALE, logarithmic, short, step_axis
from harness.published import Published
from harness.sheet import condition, milliseconds

FRONT = "Pareto front"


class Price(NamedTuple):
    """What accuracy is drawn against."""

    axis: str
    of: Callable[[Cell], float | None]
    alike: Callable[[Cell], object]
    """Only cells that are alike in this can be compared, and so have a front."""


def _time_steps(cell: Cell) -> float:
    return cell.time_steps


def _nanojoules(cell: Cell) -> float | None:
    return cell.energy.nanojoules if cell.energy else None


def _assumptions(cell: Cell) -> object:
    e = cell.energy
    return e and (e.mac_picojoules, e.ac_picojoules, e.source)


PRICES = (
    Price("latency (ms per sample, median)", milliseconds, condition),
    Price("estimated energy (nJ per sample, arithmetic)", _nanojoules, _assumptions),
    Price("synaptic operations (SynOps per sample)", lambda c: c.synops, lambda c: c.operations is None),
)


def block(row: Row) -> Block | None:
    """Panels against T and against each price that was measured."""
    if not row.curves:
        return None
    panels = [partial(_against_steps, row=row)] if row.spiking or row.published else []
    for price in PRICES:
        if any(_points(curve, price.of) for curve in row.spiking):
            panels.append(partial(_against, row=row, price=price))
    if not panels:
        panels = [partial(_against_steps, row=row)]
    return Block(row.title, panels, _legend(row), _notes(row), share_y=True)


def _points(curve: Curve, price: Callable[[Cell], float | None]) -> list[tuple[float, Cell]]:
    """Price and cell; a logarithmic axis has no zero."""
    return [(x, cell) for cell in curve.cells if cell.accuracy and (x := price(cell)) is not None and x > 0]


def _against_steps(panel: Axes, row: Row) -> None:
    _draw(panel, row, _time_steps)
    for quoted in row.published:
        colour, marker, _ = _like_measured(quoted, row.spiking)
        panel.plot(quoted.time_steps or 1, quoted.accuracy, marker, mfc="none", mec=colour, mew=1.3, ms=8, zorder=2.5)
    ticks = {c.time_steps for curve in row.spiking for c in curve.cells} | {q.time_steps or 1 for q in row.published}
    step_axis(panel, ticks)
    panel.set_xlabel("time steps T")


def _against(panel: Axes, row: Row, price: Price) -> None:
    conditions = {price.alike(cell) for curve in row.spiking for _, cell in _points(curve, price.of)}
    _draw(panel, row, price.of, with_front=len(conditions) == 1)
    for curve in row.ordinary:
        for x, cell in _points(curve, price.of):
            assert cell.accuracy is not None, "points have one"
            panel.plot(x, cell.accuracy.mean, "*", color=GREY, ms=11, zorder=3)
    logarithmic(panel.xaxis)
    panel.set_xlabel(price.axis)


def _draw(panel: Axes, row: Row, price: Callable[[Cell], float | None], *, with_front: bool = True) -> None:
    """The curves with bands of one standard deviation, or bars where a band would mislead; none for one seed."""
    if with_front and (front := _front(row, price)):
        # A broad pale band under the curves.
        panel.plot(*zip(*front, strict=True), color=PALE, linewidth=11, solid_capstyle="round", zorder=1, label=FRONT)
    for curve in row.spiking:
        points = [(x, cell.accuracy) for x, cell in _points(curve, price) if cell.accuracy]
        if not points:
            continue
        xs, means = [x for x, _ in points], [accuracy.mean for _, accuracy in points]
        deviations = [accuracy.std or 0.0 for _, accuracy in points]
        if any(after <= x for x, after in pairwise(xs)) or len(xs) == 1:
            # A band has a height only along a curve that goes to the right.
            bars: dict[str, Any] = {"color": curve.look.colour, "capsize": 3, "elinewidth": 1.1}
            panel.errorbar(xs, means, deviations, fmt="none", zorder=2.9, **bars)
        else:
            low, high = ([m + sign * d for m, d in zip(means, deviations, strict=True)] for sign in (-1, 1))
            curve.look.band(panel, xs, low, high, among=len(row.spiking))
        curve.look.line(panel, xs, means)
    for curve in row.ordinary:
        if curve.longest.accuracy:
            level = curve.longest.accuracy.mean
            panel.axhline(level, color=GREY, linewidth=1.1, linestyle=ORDINARY.dashes, zorder=2)
    panel.set_ylabel("top-1 test accuracy (%)")
    panel.margins(x=0.08, y=0.1)


def _front(row: Row, price: Callable[[Cell], float | None]) -> list[tuple[float, float]]:
    """The Pareto front of what is drawn: price and accuracy; a front of one point says nothing and is none."""
    priced = [(x, cell) for curve in row.spiking for x, cell in _points(curve, price)]
    keys = select.pareto([cell for _, cell in priced], price)
    points = sorted((x, cell.accuracy.mean) for x, cell in priced if cell.key in keys and cell.accuracy)
    return points if len(points) > 1 else []


def _like_measured(quoted: Published, curves: Sequence[Curve]) -> tuple[str, str, str]:
    """Colour and marker of the measured curve of the same method, else a grey diamond; and the legend's text."""
    for curve in curves:
        if papers.is_same_method(quoted, curve.method):
            return curve.look.colour, curve.look.marker, f"{curve.method}, published"
    return GREY, "d", "others, published"


def _legend(row: Row) -> list[Line2D]:
    handles = [curve.look.handle(curve.name) for curve in row.spiking]
    looks = {_like_measured(quoted, row.spiking) for quoted in row.published}
    handles += [
        Line2D([], [], ls="", marker=marker, mfc="none", mec=colour, mew=1.3, ms=8, label=short(name))
        for colour, marker, name in sorted(looks, key=lambda look: (look[0] == GREY, look[2]))
    ]
    for curve in row.ordinary:
        level = f" {curve.longest.accuracy.mean:.2f}" if curve.longest.accuracy else ""
        handles.append(curve.look.handle(f"{short(curve.name)}{level}", lw=1.1, ms=11, mec=GREY))
    if any(_front(row, price) for price in (_time_steps, *(price.of for price in PRICES))):
        handles.append(Line2D([], [], color=PALE, linewidth=11, solid_capstyle="round", label=FRONT))
    return handles


def _notes(row: Row) -> list[str]:
    cells = [cell for curve in row.curves for cell in curve.cells]
    notes = row.notes(cells)
    conditions = sorted(
        {f"batch of {c.latency.batch_size}, {' and '.join(c.processors)}" for c in cells if c.latency}
    )  # fmt: skip
    if conditions:
        warning = " (different conditions, not comparable)" if len(conditions) > 1 else ""
        notes.append(f"latency: {'; '.join(conditions)}{warning}")
    if sources := sorted({c.energy.source for c in cells if c.energy}):
        warning = " (different assumptions, not comparable)" if len(sources) > 1 else ""
        notes.append(f"energy: {'; '.join(sources)}{warning}")
    mine = [cell for cell in row.sheet.cells if cell.network == row.network]
    if failed := sum(len(cell.failures) for cell in mine):
        notes.append(f"{failed} {'trial' if failed == 1 else 'trials'} without a result: see the table")
    chosen = {cell.label for cell in mine if cell.key in row.sheet.best}
    if undrawn := sorted({cell.label for cell in mine if cell.accuracy} - chosen):
        notes.append(f"not drawn, for there is no validation accuracy to choose by: {', '.join(undrawn)}")
    return notes
