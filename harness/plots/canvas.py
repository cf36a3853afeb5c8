"""A figure: one block for each network on a dataset, with panels, a legend beside them and a footnote below."""

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from harness.markup import clean
from harness.plots.style import GREY

MAX_BLOCKS = 12
"""Of more networks, no page and no screen would show the figure."""
COLUMNS = 2
PANEL_INCHES = (5.5, 4.0)
GAP_INCHES = 0.1
SIDE_INCHES = 2.5
"""For the legend beside a single column; beside two there is room enough."""
LETTERS_AN_INCH = 14
"""Of a footnote."""
DPI = 160
# Neither date nor version, so that a plot drawn again is the same file.
SILENT: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}

Draw = Callable[[Axes], None]


@dataclass(frozen=True)
class Block:
    """What is shown of one network on one dataset; all text is plain."""

    title: str
    panels: Sequence[Draw]
    handles: Sequence[Artist]
    """The legend's."""
    notes: Sequence[str] = ()
    share_y: bool = False

    @property
    def num_rows(self) -> int:
        return math.ceil(len(self.panels) / COLUMNS)


@dataclass(frozen=True)
class Canvas:
    """A finished figure."""

    figure: Figure

    def content(self, suffix: str) -> bytes:
        """The file of a format: svg, pdf or png."""
        found = io.BytesIO()
        self.figure.savefig(found, format=suffix, dpi=DPI, metadata=SILENT[suffix])
        # Everything has its place now, in all formats; finding it takes as long as drawing.
        self.figure.set_layout_engine("none")
        return found.getvalue()


def drawn(blocks: Sequence[Block]) -> Canvas:
    """The figure of the blocks, one below the other; of very many the first, with a note."""
    shown, left_out = blocks[:MAX_BLOCKS], [block.title for block in blocks[MAX_BLOCKS:]]
    columns = max(min(len(block.panels), COLUMNS) for block in shown)
    width, height = PANEL_INCHES
    width = width * columns + (SIDE_INCHES if columns == 1 else 0)
    heights = [height * block.num_rows for block in shown]
    # Matplotlib takes the space between panels as a share of the whole figure, however many blocks there are.
    layout = ConstrainedLayoutEngine(hspace=GAP_INCHES / sum(heights))
    figure = Figure(figsize=(width, sum(heights)), layout=layout)
    places = figure.subfigures(len(shown), squeeze=False, height_ratios=heights)[:, 0]
    for place, block in zip(places, shown, strict=True):
        notes = list(block.notes)
        if left_out and block is shown[-1]:
            few = f"not drawn, for a figure has at most {MAX_BLOCKS} networks: {len(left_out)} more"
            notes.append(f"{few}, {'; '.join(left_out)}")
        _fill(place, block, columns, notes, width)
    return Canvas(figure)


def _fill(place: SubFigure, block: Block, columns: int, notes: Sequence[str], width: float) -> None:
    panels = place.subplots(block.num_rows, columns, sharey=block.share_y, squeeze=False).flat
    for panel, draw in zip(panels, block.panels, strict=False):
        draw(panel)
        if block.share_y and not panel.get_subplotspec().is_first_col():
            panel.set_ylabel("")
    for panel in panels[len(block.panels) :]:
        panel.remove()
    letters = int(width * LETTERS_AN_INCH)
    title = textwrap.shorten(clean(block.title), int(0.6 * letters), placeholder="…")
    place.suptitle(title, x=0.012, ha="left", fontweight="bold", fontsize=12)
    lines = [textwrap.fill(clean(note), letters, max_lines=3, placeholder=" …") for note in notes]
    place.supxlabel("\n".join(lines), x=0.012, ha="left", fontsize=8.5, color=GREY)
    if block.handles:
        place.legend(handles=list(block.handles), loc="outside right upper")
