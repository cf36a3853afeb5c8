"""Early exit: accuracy against mean time steps when a network may decide early, beside the anytime curve."""

from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from harness.plots.canvas import Block
from harness.plots.row import Curve, Row
from harness.plots.style import GREY, powers, step_axis

ANYTIME: dict[str, Any] = {"linewidth": 1.0, "marker": "", "alpha": 0.75}


def block(row: Row) -> Block | None:
    """One panel, of the methods that were measured; of each the cell with the largest T."""
    shown = [curve for curve in row.spiking if curve.longest.early_exit and len(curve.longest.anytime) > 1]
    if not shown:
        return None
    handles = [curve.look.handle(curve.at_longest) for curve in shown]
    handles += [
        Line2D([], [], color=GREY, marker="o", linewidth=1.7, label="decides once confident"),
        Line2D([], [], color=GREY, linewidth=ANYTIME["linewidth"], label="all stop after t steps"),
    ]
    levels = sorted({entry.confidence for curve in shown for entry in curve.longest.early_exit})
    told = ", ".join(f"{level:g}" for level in levels[:8]) + (", …" if len(levels) > 8 else "")
    notes = [*row.notes([curve.longest for curve in shown]), f"decides when the likeliest class has at least: {told}"]
    return Block(row.title, [partial(_draw, curves=shown)], handles, notes)


def _draw(panel: Axes, curves: list[Curve]) -> None:
    for curve in curves:
        cell = curve.longest
        steps = sorted(cell.anytime)
        means = [cell.anytime[t].mean for t in steps]
        deviations = [cell.anytime[t].std or 0.0 for t in steps]
        low, high = ([m + sign * d for m, d in zip(means, deviations, strict=True)] for sign in (-1, 1))
        curve.look.band(panel, steps, low, high, among=len(curves))
        curve.look.line(panel, steps, means, **ANYTIME)
        exits = sorted((entry.mean_time_steps, entry.accuracy) for entry in cell.early_exit)
        curve.look.line(panel, [t for t, _ in exits], [accuracy for _, accuracy in exits])
    step_axis(panel, powers(max(curve.longest.time_steps for curve in curves)))
    panel.set_xlabel("mean time steps")
    panel.set_ylabel("top-1 test accuracy (%)")
