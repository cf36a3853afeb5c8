"""Firing rates by layer, and the parts of each layer that never spike and that always do."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from harness.cell import Cell
from harness.plots.canvas import Block
from harness.plots.row import Row
from harness.plots.style import short

MAX_NAMES = 24
"""Layers that are named on the axis; of more, some."""
NAME_LETTERS = 18

Value = Callable[[Cell], Mapping[str, float]]
MEASURES: tuple[tuple[str, Value], ...] = (
    ("firing rate (% of steps)", lambda cell: cell.firing_rates),
    ("neurons that never spike (%)", lambda cell: cell.dead),
    ("neurons that always spike (%)", lambda cell: cell.saturated),
)


def block(row: Row) -> Block | None:
    """A panel for each measure that was taken; of each method the cell with the largest T."""
    panels = [
        partial(_draw, row=row, axis=axis, value=value)
        for axis, value in MEASURES
        if any(value(curve.longest) for curve in row.spiking)
    ]
    if not panels:
        return None
    shown = [curve for curve in row.spiking if any(value(curve.longest) for _, value in MEASURES)]
    notes = row.notes([curve.longest for curve in shown], "mean")
    return Block(row.title, panels, [curve.look.handle(curve.at_longest) for curve in shown], notes)


def _draw(panel: Axes, row: Row, axis: str, value: Value) -> None:
    measured = [(curve, value(curve.longest)) for curve in row.spiking if value(curve.longest)]
    layers = _in_order([list(rates) for _, rates in measured])
    places = {layer: place for place, layer in enumerate(layers)}
    finely: dict[str, Any] = {"markersize": 4, "linewidth": 1.0} if len(layers) > MAX_NAMES else {}
    for curve, rates in measured:
        own = sorted(rates, key=places.__getitem__)
        percent = [100 * rates[layer] for layer in own]
        curve.look.line(panel, [places[layer] for layer in own], percent, clip_on=False, **finely)
    every = -(-len(layers) // MAX_NAMES)
    named = range(0, len(layers), every)
    panel.set_xticks(list(named), [_name(layers[place]) for place in named], rotation=60, ha="right", fontsize=8.5)
    panel.set_xlabel("layer")
    panel.set_ylabel(axis)
    highest = max(max(rates.values()) for _, rates in measured)
    panel.set_ylim(0, 105 * highest if highest > 0 else 1)


def _in_order(curves: Sequence[Sequence[str]]) -> list[str]:
    """The layers of all curves, each behind the one that it follows in its own curve."""
    layers: list[str] = []
    for own in curves:
        place = 0
        for layer in own:
            if layer not in layers:
                layers.insert(place, layer)
            place = layers.index(layer) + 1
    return layers


def _name(layer: str) -> str:
    name = short(layer)
    return name if len(name) <= NAME_LETTERS else f"…{name[1 - NAME_LETTERS :]}"
