"""The cells of one table with everything that was chosen among them: what any format of a table shows. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from harness import cells, facet, select
from harness import published as papers
from harness.cell import Cell, Measured, grouped
from harness.published import Published
from harness.select import Spent

EPOCH_OF = {
    "last": "last epoch",
    "best_validation": "epoch chosen on validation",
    "best_test": "epoch chosen on test",
    "unknown": "choice of the epoch not stated",
}


@dataclass(frozen=True)
class Sheet:
    """The cells of one table, by default those of one dataset, with what was chosen among them."""

    dataset: str
    """The name of the dataset; of several, all of them."""
    cells: Sequence[Cell]
    varying: Sequence[str]
    """Keys of the configuration that get a column."""
    best: frozenset[str]
    """Keys of the chosen cells."""
    fewest_steps: frozenset[str]
    """Keys of the chosen cells that are Pareto-optimal in accuracy and T."""
    fastest: frozenset[str]
    """The same in accuracy and latency, among cells measured alike."""
    published: Sequence[Published]
    by: Sequence[str] = ("dataset",)
    """What all cells have in common, and the title tells."""
    title: str = ""
    spent: Mapping[str, Spent] = field(default_factory=dict)
    """Key of a chosen cell -> the trials that it was chosen among."""
    elsewhere: int = 0
    """Published figures of the dataset that stand in no table, since nothing measured has their network, or so."""

    @property
    def has_choice(self) -> bool:
        """Whether anything was chosen: some method has more than one cell for a network and T."""
        return len(self.best) < sum(cell.accuracy is not None for cell in self.cells)


def sheets(
    records: Iterable[Measured],
    published: Iterable[Published] = (),
    *,
    by: Sequence[str] = ("dataset",),
    where: Iterable[str] = (),
) -> list[Sheet]:
    """One sheet for each value of the facets `by`, sorted; of the cells that meet every condition in `where`.

    Raises ValueError for facets that no cell has and conditions that nothing meets.
    """
    found = cells.of(records)
    asked = facet.conditions(where, found)
    left = facet.where(found, asked)
    keys = list(dict.fromkeys(facet.resolved(name, found) for name in by))
    rows = [row for row in published if all(facet.is_quoted(row, key, values) for key, values in asked)]
    groups = grouped(left, lambda cell: tuple(facet.of(cell, key) for key in keys))
    quoted = {shared: _quoted(rows, group, dict(zip(keys, shared, strict=True))) for shared, group in groups.items()}
    shown = {row for some in quoted.values() for row in some}
    return [
        _sheet(group, keys, quoted[shared], sum(row not in shown for row in _quoted(rows, group, {})))
        for shared, group in sorted(groups.items(), key=lambda item: tuple(map(_sortable, item[0])))
    ]


def milliseconds(cell: Cell) -> float | None:
    """Median latency of one sample at T steps."""
    return cell.latency.median_ms if cell.latency else None


def condition(cell: Cell) -> tuple:
    """What latency was measured with; figures of different conditions cannot be compared."""
    return (cell.latency.batch_size, cell.latency.device, cell.processors) if cell.latency else ()


def _sheet(cells: Sequence[Cell], by: Sequence[str], published: Sequence[Published], elsewhere: int) -> Sheet:
    best = select.best(cells)
    references = select.references(cells)
    spiking = [cell for cell in best if cell.label not in references]
    rivals = grouped(spiking, lambda cell: cell.dataset).values()
    alike = grouped([cell for cell in spiking if cell.latency], lambda cell: (cell.dataset, condition(cell))).values()
    return Sheet(
        dataset=" and ".join(dict.fromkeys(cell.dataset for cell in cells)),
        cells=cells,
        varying=[key for key in select.varying(cells) if key not in by],
        best=frozenset(cell.key for cell in best),
        fewest_steps=frozenset().union(*(_front(group, lambda cell: cell.time_steps) for group in rivals)),
        fastest=frozenset().union(*(_front(group, milliseconds) for group in alike)),
        published=published,
        by=by,
        title=", ".join(_named(key, facet.of(cells[0], key)) for key in by) or "All records",
        spent=select.spent(cells, best),
        elsewhere=elsewhere,
    )


def _quoted(rows: Sequence[Published], cells: Sequence[Cell], shared: Mapping[str, object]) -> list[Published]:
    """The published figures that belong beside cells which have all this in common."""
    datasets = sorted({cell.dataset for cell in cells})
    found = {row: None for dataset in datasets for row in papers.of_dataset(rows, dataset)}
    return [row for row in found if all(facet.is_quoted(row, key, [value]) for key, value in shared.items())]


def _named(key: str, value: object) -> str:
    return str(value) if key in ("dataset", "network", "method") else f"{key.removeprefix('settings.')} = {value}"


def _sortable(value: object) -> tuple[float, str]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (float(value), "") if is_number else (0.0, str(value))  # type: ignore[arg-type]


def _front(cells: Sequence[Cell], cost: Callable[[Cell], float | None]) -> frozenset[str]:
    # A front of one point says nothing.
    return frozenset(select.pareto(cells, cost)) if len(cells) > 1 else frozenset()
