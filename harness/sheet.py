"""The cells of one dataset with everything that was chosen among them: what any format of a table shows. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from harness import cells, select
from harness import published as papers
from harness.cell import Cell
from harness.published import Published
from harness.record import Record

EPOCH_OF = {
    "last": "last epoch",
    "best_validation": "epoch chosen on validation",
    "best_test": "epoch chosen on test",
    "unknown": "choice of the epoch not stated",
}


@dataclass(frozen=True)
class Sheet:
    """The cells of one dataset with what was chosen among them."""

    dataset: str
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

    @property
    def has_choice(self) -> bool:
        """Whether anything was chosen: some method has more than one cell for a network and T."""
        return len(self.best) < sum(cell.accuracy is not None for cell in self.cells)


def sheets(records: Iterable[Record], published: Iterable[Published] = ()) -> list[Sheet]:
    """One sheet for each dataset, sorted by title."""
    found = cells.of(records)
    rows = list(published)
    return [
        _sheet(name, [cell for cell in found if cell.dataset == name], rows)
        for name in sorted({cell.dataset for cell in found})
    ]


def milliseconds(cell: Cell) -> float | None:
    """Median latency of one sample at T steps."""
    return cell.latency.median_ms if cell.latency else None


def condition(cell: Cell) -> tuple:
    """What latency was measured with; figures of different conditions cannot be compared."""
    return (cell.latency.batch_size, cell.latency.device, cell.processors) if cell.latency else ()


def _sheet(dataset: str, cells: Sequence[Cell], published: Sequence[Published]) -> Sheet:
    best = select.best(cells)
    spiking = [cell for cell in best if cell.label not in select.references(cells)]
    conditions = {condition(cell) for cell in spiking if cell.latency}
    alike = [[cell for cell in spiking if condition(cell) == shared] for shared in conditions]
    return Sheet(
        dataset=dataset,
        cells=cells,
        varying=select.varying(cells),
        best=frozenset(cell.key for cell in best),
        fewest_steps=_front(spiking, lambda cell: cell.time_steps),
        fastest=frozenset().union(*(_front(group, milliseconds) for group in alike)),
        published=papers.of_dataset(published, dataset),
    )


def _front(cells: Sequence[Cell], cost: Callable[[Cell], float | None]) -> frozenset[str]:
    # A front of one point says nothing.
    return frozenset(select.pareto(cells, cost)) if len(cells) > 1 else frozenset()
