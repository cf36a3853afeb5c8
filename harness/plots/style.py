"""How curves look: colours, markers and dashes that differ on grey paper and to the colour-blind; only our settings."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from harness.markup import clean

# Okabe and Ito's colours without their yellow, which is too pale for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1)))
GREY = "#666666"
PALE = "#dcdcdc"
LONGEST = 40
"""Letters of a name in a legend; of a longer one the middle is left out."""
FEW = 6
"""Curves up to which bands do not make a fog."""
SETTINGS: dict[Any, Any] = {
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
    "pdf.fonttype": 42,
}


@contextmanager
def settled() -> Iterator[None]:
    """Our settings: a reader's own matplotlibrc must not change the files, nor we theirs."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


@dataclass(frozen=True)
class Look:
    """What tells one curve from the others."""

    colour: str
    marker: str
    dashes: Any

    def line(self, panel: Axes, x: Any, y: Any, **options: Any) -> None:
        """Draw a curve."""
        panel.plot(x, y, **self._options() | options)

    def band(self, panel: Axes, x: Any, low: Any, high: Any, *, among: int) -> None:
        """Draw what lies within one standard deviation, pale behind the curves; the paler the more there are."""
        alpha = 0.15 * FEW / max(among, FEW)
        panel.fill_between(x, low, high, color=self.colour, alpha=alpha, linewidth=0, zorder=1.5)

    def handle(self, name: str, **options: Any) -> Line2D:
        """An entry of a legend."""
        return Line2D([], [], label=short(name), **self._options() | options)

    def _options(self) -> dict[str, Any]:
        return {
            "color": self.colour, "marker": self.marker, "linestyle": self.dashes, "linewidth": 1.7, "markersize": 6.5,
            "markeredgecolor": "white", "markeredgewidth": 0.7, "zorder": 3,
        }  # fmt: skip


ORDINARY = Look(GREY, "*", (0, (8, 3)))
"""Of a network without time steps."""


def look(place: int) -> Look:
    """The look of the curve at a place; the first 315 differ."""
    return Look(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], DASHES[place % len(DASHES)])


def ramp(count: int) -> list[Look]:
    """Looks of things in an order: from dark to light, the dashes in turn."""
    shades = matplotlib.colormaps["viridis"]
    return [
        Look(to_hex(shades(0.8 * place / max(count - 1, 1))), "", DASHES[place % len(DASHES)])
        for place in range(count)
    ]  # fmt: skip


def short(name: str) -> str:
    """A name for a legend."""
    name = clean(name)
    half = LONGEST // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[1 - half :]}"


def logarithmic(axis: Axis) -> None:
    """Make an axis, its data drawn, logarithmic, with plain numbers and enough of them."""
    (axis.axes.set_xscale if axis is axis.axes.xaxis else axis.axes.set_yscale)("log")
    low, high = axis.get_view_interval()
    # Powers of ten alone would leave a narrow range with a single number on its axis, and so would 1, 2, 5, ...
    subs = (1.0, 2.0, 5.0) if high / low < 50 else (1.0,)
    axis.set_major_locator(MaxNLocator(5) if high / low < 5 else LogLocator(subs=subs))
    axis.set_minor_formatter(NullFormatter())
    # Matplotlib's own would be a formula, and so appear as its source.
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))


def plain(value: float) -> str:
    """A number on an axis: 0.01, 20000, 5e6."""
    text = f"{value:g}" if 1e-4 <= abs(value) < 1e5 or value == 0 else f"{value:.2g}" if value < 1 else f"{value:.0e}"
    return text.replace("e+0", "e").replace("e-0", "e-")


def powers(time_steps: int) -> set[int]:
    """1, 2, 4, ... and T: the ticks of an axis of all steps."""
    return {2**k for k in range(time_steps.bit_length())} | {time_steps}


def step_axis(panel: Axes, ticks: Collection[int]) -> None:
    """An x axis of time steps: logarithmic, marked at these."""
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_locator(FixedLocator(_apart(sorted(ticks))))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))


def _apart(ticks: Sequence[int]) -> list[int]:
    """Those ticks of a logarithmic axis whose numbers do not run into each other."""
    kept: list[int] = []
    for tick in ticks:
        if not kept or tick / kept[-1] >= (ticks[-1] / ticks[0]) ** 0.06:
            kept.append(tick)
    return kept
