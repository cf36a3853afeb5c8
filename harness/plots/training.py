"""Training curves: loss and validation accuracy against epochs, mean and deviation over seeds."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from harness import cells
from harness.cell import Statistic
from harness.plots.canvas import Block
from harness.plots.row import Curve, Row
from harness.plots.style import logarithmic
from harness.record import Epoch

WIDE = 20
"""Largest loss over smallest from which on its axis is logarithmic."""

Value = Callable[[Epoch], float | None]
MEASURES: tuple[tuple[str, Value], ...] = (
    ("training loss", lambda epoch: epoch.train_loss),
    ("validation accuracy (%)", lambda epoch: epoch.validation_accuracy),
)


def block(row: Row) -> Block | None:
    """A panel for each measure that was taken; of each method the cell with the largest T."""
    panels = [
        partial(_draw, row=row, axis=axis, value=value)
        for axis, value in MEASURES
        if any(_over_epochs(row, curve, value) for curve in row.curves)
    ]
    if not panels:
        return None
    shown = [curve for curve in row.curves if any(_over_epochs(row, curve, value) for _, value in MEASURES)]
    notes = row.notes([curve.longest for curve in shown])
    return Block(row.title, panels, [curve.look.handle(curve.at_longest, marker="") for curve in shown], notes)


def _over_epochs(row: Row, curve: Curve, value: Value) -> list[tuple[int, Statistic]]:
    """Epochs done and the statistic over the seeds that have a finite value there."""
    histories = [
        [value(epoch) for epoch in record.history]
        for name in curve.longest.ids
        if (record := row.records.get(name)) and record.outcome == "done"
    ]
    found = []
    for place in range(max(map(len, histories), default=0)):
        known = [history[place] for history in histories if place < len(history)]
        if seeds := cells.statistic([one for one in known if one is not None and math.isfinite(one)]):
            found.append((place + 1, seeds))
    return found


def _draw(panel: Axes, row: Row, axis: str, value: Value) -> None:
    seen: list[float] = []
    for curve in row.curves:
        points = _over_epochs(row, curve, value)
        if points:
            _curve(panel, curve, points, len(row.curves))
            seen += [seeds.mean for _, seeds in points]
    if axis.endswith("loss") and min(seen) > 0 and max(seen) / min(seen) > WIDE:
        logarithmic(panel.yaxis)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("epochs")
    panel.set_ylabel(axis)


def _curve(panel: Axes, curve: Curve, points: Sequence[tuple[int, Statistic]], among: int) -> None:
    epochs, means = [epoch for epoch, _ in points], [seeds.mean for _, seeds in points]
    # On a logarithmic axis a band must not reach zero.
    low = [max(s.mean - (s.std or 0.0), s.mean / 100 if s.mean > 0 else -math.inf) for _, s in points]
    curve.look.band(panel, epochs, low, [seeds.mean + (seeds.std or 0.0) for _, seeds in points], among=among)
    curve.look.line(panel, epochs, means, marker="." if len(points) == 1 else "")
