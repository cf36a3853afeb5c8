"""The theory, measured: representation error and equilibrium residual against time steps, a line for each layer."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from harness.markup import clean
from harness.plots.canvas import Block
from harness.plots.row import Row
from harness.plots.style import GREY, Look, logarithmic, powers, ramp, short, step_axis

MAX_PANELS = 6
MAX_NAMES = 6
"""Layers that a panel's legend names; of more, some from the first to the last."""

Layers = Mapping[str, Sequence[float]]


def block(row: Row) -> Block | None:
    """A panel for each method and measure; of each method the cell with the largest T."""
    found = [
        (f"{measure.replace('_', ' ')}: {short(curve.at_longest)}", layers)
        for curve in row.curves
        for measure, layers in curve.longest.convergence.items()
        if any(value > 0 and math.isfinite(value) for values in layers.values() for value in values)
    ]
    if not found:
        return None
    cells = [curve.longest for curve in row.curves if curve.longest.convergence]
    notes = row.notes(cells, "mean")
    notes.append("relative error of firing rates after t steps; dark lines are the first layers, light ones the last")
    if len(found) > MAX_PANELS:
        names = [name for name, _ in found[MAX_PANELS:]]
        few = f"not drawn, for a network has at most {MAX_PANELS} panels"
        notes.append(f"{few}: {len(names)} more, {', '.join(names)}")
    panels = [partial(_draw, name=name, layers=layers) for name, layers in found[:MAX_PANELS]]
    return Block(row.title, panels, (), notes)


def _draw(panel: Axes, name: str, layers: Layers) -> None:
    looks = ramp(len(layers))
    for look, values in zip(looks, layers.values(), strict=True):
        # A logarithmic axis has no zero: there the line is interrupted.
        shown = [value if value > 0 else math.nan for value in values]
        look.line(panel, range(1, len(shown) + 1), shown, marker="." if len(shown) == 1 else "")
    steps = max(map(len, layers.values()))
    highest = max(value for values in layers.values() for value in values if math.isfinite(value))
    panel.plot([1, steps], [highest, highest / steps], color=GREY, linewidth=0.9, linestyle=(0, (1, 3)), zorder=1)
    logarithmic(panel.yaxis)
    step_axis(panel, powers(steps))
    panel.set_xlabel("time steps t")
    panel.set_title(clean(name), fontsize=10, loc="left")
    panel.legend(handles=_legend(list(layers), looks), fontsize=8, loc="lower left", handlelength=2.4)


def _legend(names: Sequence[str], looks: Sequence[Look]) -> list[Line2D]:
    last = len(names) - 1
    few = min(len(names), MAX_NAMES)
    places = sorted({round(place * last / max(few - 1, 1)) for place in range(few)})
    handles = [looks[place].handle(names[place]) for place in places]
    return [*handles, Line2D([], [], color=GREY, linewidth=0.9, linestyle=(0, (1, 3)), label="falls like 1/t")]
