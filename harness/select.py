"""Cells -> the chosen ones. Choices look at validation accuracy only. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from harness.cell import Cell, canonical, curve, grouped, order


@dataclass(frozen=True)
class Spent:
    """The trials that a chosen cell was chosen among: all settings and seeds, those that failed, too."""

    trials: int
    hours: float | None
    """Of wall-clock time, as far as the records tell; None where none does."""


def best(cells: Iterable[Cell]) -> list[Cell]:
    """For each dataset, network, label, T and selection rule the cell with the best mean validation accuracy.

    A cell in which a seed diverged is chosen only when it did in all of them. Where there is a choice and nothing was
    validated, nothing is chosen: the test accuracy never decides.
    """
    groups = grouped((cell for cell in cells if cell.accuracy), _rivals)
    return sorted(chain.from_iterable(_best_of(group) for group in groups.values()), key=order)


def spent(cells: Iterable[Cell], best: Iterable[Cell]) -> Mapping[str, Spent]:
    """Key of each of the best -> the trials that it cost to find it, among these cells."""
    groups = grouped(cells, _rivals)
    return {cell.key: _spent(groups[_rivals(cell)]) for cell in best}


def pareto(cells: Iterable[Cell], cost: Callable[[Cell], float | None]) -> set[str]:
    """Keys of the cells that no other cell beats: none is as accurate at a lower cost, or better at the same."""
    points = [
        (cost_, -cell.accuracy.mean, cell.key) for cell in cells if cell.accuracy and (cost_ := cost(cell)) is not None
    ]
    front, least = set(), (0.0, float("inf"))
    for cost_, negative, key in sorted(points):
        if negative < least[1] or (cost_, negative) == least:
            front.add(key)
            least = cost_, negative
    return front


def references(cells: Sequence[Cell]) -> set[str]:
    """Labels of methods that have no time steps, such as an ordinary network."""
    return {cell.label for cell in cells if not cell.spiking}


def varying(cells: Sequence[Cell]) -> list[str]:
    """Keys of the configuration that tell rows apart, sorted.

    A setting of the method or of its training counts when it differs between cells of one label; anything about the
    data or the selection rule when it differs between any two cells; where it starts from when it differs between
    cells of one label, network and T.
    """
    of_label = _differing(cells, lambda cell: cell.label, ("settings.", "train.", "workers"))
    ofcurve = _differing(cells, curve, ("start",))
    return sorted(of_label | ofcurve | _differing(cells, lambda cell: None, ("dataset.", "selection")))


def largest_time_steps(cells: Iterable[Cell]) -> list[Cell]:
    """Of each dataset, network and label the cells with the largest T, where accuracy over time was measured."""
    groups = grouped(cells, lambda cell: (cell.dataset, cell.network, cell.label))
    longest = {key: max(cell.time_steps for cell in group) for key, group in groups.items()}
    chosen = [cell for key, group in groups.items() for cell in group if cell.time_steps == longest[key]]
    return sorted((cell for cell in chosen if len(cell.anytime) > 1), key=order)


def _rivals(cell: Cell) -> tuple:
    """What cells have in common that one is chosen among."""
    return cell.dataset, cell.selection, *curve(cell)


def _spent(cells: Sequence[Cell]) -> Spent:
    seconds = [r.wall_seconds for cell in cells for r in cell.records if r.wall_seconds is not None]
    return Spent(sum(len(cell.records) for cell in cells), sum(seconds) / 3600 if seconds else None)


def _best_of(group: Sequence[Cell]) -> list[Cell]:
    if len(group) == 1:
        return list(group)
    validated = [(cell, cell.validation.mean) for cell in group if cell.validation]
    return [min(validated, key=lambda pair: (pair[0].has_diverged, -pair[1], pair[0].key))[0]] if validated else []


def _differing(cells: Sequence[Cell], group: Callable[[Cell], object], prefixes: tuple[str, ...]) -> set[str]:
    """Keys with one of the prefixes whose values differ within any of the groups."""
    found: set[str] = set()
    for members in grouped(cells, group).values():
        keys = {key for cell in members for key in cell.configuration if key.startswith(prefixes)}
        found |= {key for key in keys if len({_exact(cell.configuration.get(key)) for cell in members}) > 1}
    return found


def _exact(value: object) -> object:
    """Something that equals that of another value only where they are written alike, unlike 1, 1.0 and True."""
    return (type(value), value) if isinstance(value, str | int | float | None) else canonical(value)
