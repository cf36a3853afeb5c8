"""What was measured, in a few lines: how much, on what, from which code, and what to be careful with. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.cell import Cell
from harness.record import Outcome, Record
from harness.sheet import EPOCH_OF, Sheet

FEW = 8
"""So many different values are named; of more, these and how many others."""


@dataclass(frozen=True)
class Overview:
    """The page's opening. `facts` are name and value, `cares` sentences, `reasons` outcome, reason and trials."""

    title: str
    figures: Sequence[tuple[str, str]]
    facts: Sequence[tuple[str, str]]
    cares: Sequence[str]
    reasons: Sequence[tuple[str, str, int]]


def of(sheets: Sequence[Sheet], records: Sequence[Record], title: str) -> Overview:
    """The overview of these records, each trial once."""
    cells = [cell for sheet in sheets for cell in sheet.cells]
    outcomes = Counter(record.outcome for record in records)
    failed = [record for record in records if record.outcome != "done"]
    reasons = Counter((record.outcome, record.reason or "no reason given") for record in failed)
    return Overview(
        title=title,
        figures=[
            (f"{len(records):,}", _plural("trial", len(records))),
            (f"{len(cells):,}", _plural("configuration", len(cells))),
            (f"{len(sheets):,}", _plural("dataset", len(sheets))),
            (f"{len({cell.label for cell in cells}):,}", _plural("method", len({cell.label for cell in cells}))),
            (f"{len(failed):,}", "without a result"),
        ],
        facts=[(name, value) for name, value in _facts(cells, records, outcomes) if value],
        cares=_cares(sheets, cells, records),
        reasons=[(outcome, reason, count) for (outcome, reason), count in reasons.most_common(FEW)],
    )


def _facts(cells: Sequence[Cell], records: Sequence[Record], outcomes: Counter[Outcome]) -> list[tuple[str, str]]:
    seeds = [len(cell.ids) for cell in cells]
    started = sorted(record.started[:10] for record in records if record.started)
    return [
        ("Datasets", _listed(cell.dataset for cell in cells)),
        ("Networks", _listed(cell.network for cell in cells)),
        ("Methods", _listed(cell.label for cell in cells)),
        ("Time steps T", ", ".join(map(str, sorted({cell.time_steps for cell in cells if cell.spiking})))),
        ("Seeds for each configuration", _range(seeds)),
        ("Outcomes", ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))),
        ("Weights scored", _listed(EPOCH_OF[cell.selection] for cell in cells)),
        ("Processors", _listed(name for cell in cells for name in cell.processors)),
        ("Commits", _listed(name for cell in cells for name in cell.commits)),
        ("Harness", _listed(record.versions["harness"] for record in records if "harness" in record.versions)),
        ("Measured", " to ".join(dict.fromkeys([started[0], started[-1]])) if started else ""),
        ("Energy", _listed(cell.energy.source for cell in cells if cell.energy)),
    ]


def _cares(sheets: Sequence[Sheet], cells: Sequence[Cell], records: Sequence[Record]) -> list[str]:
    """What a careful reader would ask, answered before."""
    peeking = sum(cell.selection == "best_test" for cell in cells)
    single = sum(cell.accuracy is not None and cell.accuracy.n == 1 for cell in cells)
    partly = sum(bool(cell.failures) and cell.accuracy is not None for cell in cells)
    dirty = sum(record.dirty is True for record in records)
    processors = {name for cell in cells for name in cell.processors}
    said = [
        (peeking, f"{peeking:,} of {len(cells):,} configurations scored the epoch that was best on the test set: "
                  "their accuracy is too good by an unknown amount."),
        (single, f"{single:,} of {len(cells):,} configurations have a result from one seed only: no deviation known."),
        (partly, f"In {partly:,} configurations some seeds gave no result; the mean is over the others."),
        (dirty, f"{dirty:,} of {len(records):,} trials ran code with changes that were not committed (marked +)."),
        (len(processors) > 1, f"Latency was measured on {len(processors)} processors; no front joins points of two."),
        (any(sheet.has_choice for sheet in sheets), "Where a method has several configurations for a network and T, "
                  "the one marked best has the best accuracy on validation; the test set decides nothing."),
        (any(sheet.published for sheet in sheets), "Published rows come from papers: data, augmentation and choice of "
                  "the epoch may differ from ours. Each names its source, and how far the figure was checked."),
    ]  # fmt: skip
    return [sentence for holds, sentence in said if holds]


def _listed(names: Iterable[str]) -> str:
    """Different names, sorted; of many, the first few and how many others."""
    different = sorted(set(names))
    more = f" and {len(different) - FEW:,} more" if len(different) > FEW else ""
    return " · ".join(different[:FEW]) + more


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return str(low) if low == high else f"{low} to {high}"


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
