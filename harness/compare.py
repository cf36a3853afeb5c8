"""Two methods over their records: where both were measured, which is better and which is faster. Pure.

A method is given as LABEL[@NETWORK][:KEY=VALUE[,KEY=VALUE]], such as 'dsr', 'dsr@mlp' or 'dsr:T=4,v_threshold=2'. Pairs
have dataset, network and T in common, but for what both name: 'dsr:T=2' and 'dsr:T=8' are a pair.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness import cells, contrast, facet, select, tradeoff
from harness.cell import Cell, Measured, grouped
from harness.contrast import Contrast
from harness.sheet import condition, milliseconds
from harness.tradeoff import Tradeoff


@dataclass(frozen=True)
class Selector:
    """Which cells are meant; see this module's first lines."""

    text: str
    conditions: tuple[str, ...]
    """In the form of `harness.facet`: 'method=dsr', 'time_steps=4'."""

    @property
    def named(self) -> set[str]:
        """The facets that it fixes."""
        return {{"T": "time_steps"}.get(name, name) for name in (each.split("=")[0] for each in self.conditions)}


@dataclass(frozen=True)
class Pair:
    """Two chosen cells of one dataset, and how their test accuracies differ: the first's minus the second's."""

    a: Cell
    b: Cell
    contrast: Contrast


@dataclass(frozen=True)
class Curves:
    """Two methods on a dataset and network, over all their T."""

    a: Cell
    """One of the first's cells, for its names."""
    b: Cell
    tradeoff: Tradeoff | None
    """None where latencies cannot be compared."""
    remark: str | None


@dataclass(frozen=True)
class Comparison:
    """Everything that is said about two methods."""

    a: str
    b: str
    confidence: float
    pairs: Sequence[Pair]
    curves: Sequence[Curves]


def selector(text: str) -> Selector:
    """The selector that a text writes; raises ValueError with the form that is right."""
    head, colon, settings = text.partition(":")
    label, at, network = head.partition("@")
    conditions = [f"method={label}", *([f"network={network}"] if at else [])]
    conditions += settings.split(",") if colon else []
    if not label or (at and not network) or any("=" not in each for each in conditions):
        raise ValueError(f"'{text}': expected LABEL[@NETWORK][:KEY=VALUE,…], such as dsr, dsr@mlp or dsr:T=4")
    return Selector(text, tuple(conditions))


def of(
    a: Selector,
    b: Selector,
    records: Iterable[Measured],
    others: Iterable[Measured] | None = None,
    *,
    time_steps: Sequence[int] = (),
    confidence: float = 0.95,
    bootstrap: bool = False,
) -> Comparison:
    """Compare the chosen cells of two methods; those of the second are among `others`, where they are given.

    Raises ValueError where a selector meets nothing, or the two have nothing in common.
    """
    found = cells.of(records)
    first = _chosen(a, found, time_steps)
    second = _chosen(b, found if others is None else cells.of(others), time_steps)
    shared = [key for key in ("network", "time_steps") if key not in a.named & b.named]
    couples = [(x, y) for x in first for y in second if _belong(x, y, shared)]
    if not couples:
        raise ValueError(f"{a.text} and {b.text} have no dataset, network and T in common ({_offered(first, second)})")
    pairs = [
        Pair(x, y, contrast.of(x.accuracies, y.accuracies, confidence=confidence, bootstrap=bootstrap))
        for x, y in couples
    ]
    return Comparison(a.text, b.text, confidence, pairs, _curves(first, second, shared))


def _chosen(asked: Selector, found: Sequence[Cell], time_steps: Sequence[int]) -> list[Cell]:
    try:
        left = facet.where(found, facet.conditions(asked.conditions, found))
    except ValueError as error:
        raise ValueError(f"{asked.text}: {error}") from error
    chosen = [cell for cell in select.best(left) if cell.accuracies]
    kept = [cell for cell in chosen if not time_steps or cell.time_steps in time_steps or not cell.spiking]
    if not kept:
        steps = ", ".join(str(each) for each in sorted({cell.time_steps for cell in chosen}))
        what = f"with T = {', '.join(map(str, time_steps))} (there are: {steps})" if chosen else "was chosen"
        raise ValueError(f"{asked.text}: nothing {what}")
    return kept


def _belong(a: Cell, b: Cell, shared: Sequence[str]) -> bool:
    """Whether two cells are a pair; an ordinary network has no time steps, and goes with any."""
    for key in shared:
        if key == "time_steps" and not (a.spiking and b.spiking):
            continue
        if facet.of(a, key) != facet.of(b, key):
            return False
    return a.dataset == b.dataset


def _curves(first: Sequence[Cell], second: Sequence[Cell], shared: Sequence[str]) -> list[Curves]:
    keys = [key for key in shared if key != "time_steps"]
    mine, theirs = (
        grouped(some, lambda cell: (cell.dataset, cell.network, cell.selection)) for some in (first, second)
    )
    return [_against(x, y) for x in mine.values() for y in theirs.values() if _belong(x[0], y[0], keys)]


def _against(a: Sequence[Cell], b: Sequence[Cell]) -> Curves:
    timed = [[cell for cell in some if cell.latency] for some in (a, b)]
    if not all(timed):
        return Curves(a[0], b[0], None, "no latency was measured")
    if len({condition(cell) for some in timed for cell in some}) > 1:
        return Curves(a[0], b[0], None, "latencies were measured under different conditions, and are not comparable")
    return Curves(a[0], b[0], tradeoff.of(*map(_points, timed)), None)


def _points(cells: Sequence[Cell]) -> list[tuple[float, float]]:
    return [
        (milliseconds_, cell.accuracy.mean)
        for cell in cells
        if cell.accuracy and (milliseconds_ := milliseconds(cell)) is not None
    ]


def _offered(*sides: Sequence[Cell]) -> str:
    texts = [", ".join(f"{c.dataset} {c.network} T={c.time_steps}" for c in some[:6]) for some in sides]
    return " | ".join(texts)
