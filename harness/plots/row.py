"""One network on one dataset: its chosen cells as curves, a curve a method, which look the same in every figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness import published as papers
from harness.cell import Cell, grouped
from harness.plots.style import ORDINARY, Look, look
from harness.published import Published
from harness.record import Record
from harness.sheet import EPOCH_OF, Sheet

MAX_CURVES = 12
"""In a panel; of more methods those with the best validation accuracy are drawn."""


@dataclass(frozen=True)
class Curve:
    """A method: its chosen cells by T, and how they are drawn."""

    name: str
    method: str
    cells: Sequence[Cell]
    spiking: bool
    look: Look

    @property
    def longest(self) -> Cell:
        """The cell with the largest T."""
        return self.cells[-1]

    @property
    def at_longest(self) -> str:
        """The name with that T."""
        return f"{self.name}, T = {self.longest.time_steps}" if self.spiking else self.name


@dataclass(frozen=True)
class Row:
    """One network on one dataset."""

    sheet: Sheet
    network: str
    curves: Sequence[Curve]
    """Those with time steps come first."""
    crowded_out: Sequence[str]
    """Names of the curves beyond MAX_CURVES."""
    published: Sequence[Published]
    """Those with time steps."""
    records: Mapping[str, Record]
    """By id."""

    @property
    def title(self) -> str:
        return f"{self.sheet.dataset}, {self.network}"

    @property
    def spiking(self) -> list[Curve]:
        return [curve for curve in self.curves if curve.spiking]

    @property
    def ordinary(self) -> list[Curve]:
        """The networks without time steps."""
        return [curve for curve in self.curves if not curve.spiking]

    def notes(self, cells: Sequence[Cell], spread: str = "mean ± sample std") -> list[str]:
        """What has to be said of these cells in every figure: seeds, selection, what is not drawn and why."""
        counts = sorted({cell.accuracy.n for cell in cells if cell.accuracy})
        seeds = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
        first = "one seed, no deviation (n=1)" if counts == [1] else f"{spread} over {seeds} seeds"
        rules = " or ".join(sorted({EPOCH_OF[cell.selection] for cell in cells}))
        chosen = "; settings chosen by validation accuracy" if self.sheet.has_choice else ""
        notes = [f"{first}; {rules}{chosen}"]
        if self.crowded_out:
            limit = f"not drawn, for a panel has at most {MAX_CURVES} curves, those with the best validation accuracy"
            notes.append(f"{limit}: {len(self.crowded_out)} more, {', '.join(self.crowded_out)}")
        return notes


def rows(sheets: Sequence[Sheet], records: Sequence[Record]) -> list[Row]:
    """One row for each network that has an accuracy, sorted; a label looks the same in all of them."""
    best = {sheet.dataset: [cell for cell in sheet.cells if cell.key in sheet.best] for sheet in sheets}
    labels = sorted({(not c.spiking, c.label, c.selection) for cells in best.values() for c in cells})
    by_id = {record.id: record for record in sorted(records, key=lambda record: record.outcome == "done")}
    return [
        _row(sheet, network, [cell for cell in best[sheet.dataset] if cell.network == network], labels, by_id)
        for sheet in sheets
        for network in sorted({cell.network for cell in best[sheet.dataset]})
    ]


def _row(
    sheet: Sheet, network: str, cells: Sequence[Cell], labels: Sequence[tuple], records: Mapping[str, Record]
) -> Row:
    networks = {cell.network for cell in sheet.cells if cell.key in sheet.best}
    others = [other for other in networks if other != network]
    curves = _curves(cells, labels)
    # What is compared with stays.
    ranked = sorted(curves, key=lambda curve: (curve.spiking, -_validation(curve), curve.name))
    kept = ranked[:MAX_CURVES]
    return Row(
        sheet=sheet,
        network=network,
        curves=[curve for curve in curves if curve in kept],
        crowded_out=[curve.name for curve in curves if curve not in kept],
        # A published figure stands with its network, else in every row.
        published=[
            quoted
            for quoted in sheet.published
            if (quoted.time_steps or 0) > 1 and not any(papers.is_same_name(quoted.network, name) for name in others)
        ],
        records=records,
    )


def _curves(cells: Sequence[Cell], labels: Sequence[tuple]) -> list[Curve]:
    """The curves of a row; a label's place among all `labels` decides how it looks."""
    with_selection = len({selection for *_, selection in labels}) > 1
    own = grouped(cells, lambda cell: (not cell.spiking, cell.label, cell.selection))
    return [
        Curve(
            name=f"{label}, {EPOCH_OF[selection]}" if with_selection else label,
            method=own[ordinary, label, selection][0].method,
            cells=sorted(own[ordinary, label, selection], key=lambda cell: cell.time_steps),
            spiking=not ordinary,
            look=ORDINARY if ordinary else look(place),
        )
        for place, (ordinary, label, selection) in enumerate(labels)
        if (ordinary, label, selection) in own
    ]


def _validation(curve: Curve) -> float:
    """The best mean validation accuracy; below all of them where there is none."""
    return max((cell.validation.mean for cell in curve.cells if cell.validation), default=-1.0)
