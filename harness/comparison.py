"""A comparison of two methods as tables, and as JSON. Pure."""

import json as stdlib_json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.cell import Cell
from harness.compare import Comparison, Curves, Pair
from harness.contrast import POWER, RESAMPLES
from harness.markup import Column, Entry, Table
from harness.numerals import digits, spread


def tables(found: Comparison) -> list[Table]:
    """Accuracy pair by pair, then accuracy against latency."""
    return [_accuracies(found), _tradeoffs(found)]


def json(found: Comparison) -> str:
    """The same as named numbers; nulls for what cannot be known."""
    content = {
        "a": found.a,
        "b": found.b,
        "confidence": found.confidence,
        "pairs": [
            {"dataset": pair.a.dataset, "a": _side(pair.a), "b": _side(pair.b)} | asdict(pair.contrast)
            for pair in found.pairs
        ],
        "accuracy_and_latency": [
            {"dataset": each.a.dataset, "networks": [each.a.network, each.b.network]}
            | (asdict(each.tradeoff) if each.tradeoff else {"remark": each.remark})
            for each in found.curves
        ],
    }
    return stdlib_json.dumps(content, indent=1) + "\n"


def _side(cell: Cell) -> dict[str, Any]:
    return {
        "label": cell.label, "network": cell.network, "time_steps": cell.time_steps, "selection": cell.selection,
        "ids": cell.ids, "seeds": cell.seeds, "accuracy_mean": cell.accuracy.mean if cell.accuracy else None,
        "accuracy_std": cell.accuracy.std if cell.accuracy else None,
    }  # fmt: skip


def _accuracies(found: Comparison) -> Table:
    percent = f"{100 * found.confidence:g} %"
    heads = [
        Column("Dataset"), Column("Network"), Column("T", True), Column(f"{found.a} %", True),
        Column(f"{found.b} %", True), Column("Difference", True), Column(f"{percent} interval", True),
        Column("By"), Column("Effect", True), Column("p", True), Column("More seeds", True),
    ]  # fmt: skip
    return Table(
        title=f"{found.a} against {found.b}",
        caption=f"Top-1 test accuracy in percent, mean ± sample standard deviation (seeds), of the settings chosen by "
        f"validation accuracy; difference: {found.a} minus {found.b} in percentage points.",
        columns=heads,
        rows=[[Entry(text) for text in _row(pair)] for pair in found.pairs],
        notes=_notes(found),
    )


def _row(pair: Pair) -> list[str]:
    a, b, c = pair.a, pair.b, pair.contrast
    return [
        a.dataset,
        _both(a.network, b.network),
        _both(_steps(a), _steps(b)),
        spread(a.accuracy),
        spread(b.accuracy),
        f"{c.difference:+.2f}",
        "none" if c.low is None or c.high is None else f"{c.low:+.2f} to {c.high:+.2f}",
        f"{c.test}, {c.common_seeds} pairs" if c.test and "paired" in c.test.split() else c.test or "–",
        "–" if c.effect is None else f"{c.effect:+.2f} {c.effect_name}",
        "–" if c.p is None else f"{c.p:.3f}" if c.p >= 0.001 else "< 0.001",
        _more(pair),
    ]


def _more(pair: Pair) -> str:
    c = pair.contrast
    if c.more_seeds is not None:
        return str(c.more_seeds)
    return "∞" if c.effect == 0 else "–"


def _notes(found: Comparison) -> list[str]:
    tests = {pair.contrast.test for pair in found.pairs}
    notes = []
    if "paired t" in tests:
        notes.append("paired t: Student's t on the differences of common seeds; d_z: their mean / standard deviation")
    if "Welch's t" in tests:
        notes.append("Welch's t: fewer than two common seeds; Hedges' g: difference / pooled standard deviation")
    if any("bootstrap" in (test or "") for test in tests):
        notes.append(f"bootstrap: percentiles of {RESAMPLES} resamples; too narrow for few seeds, and without a p")
    if tests - {None}:
        notes.append(
            f"more seeds: of each, to see a true difference of this size at {100 * found.confidence:g} % with a power "
            f"of {100 * POWER:g} % (Guenther 1981); ∞: there is none to see"
        )
    for pair in found.pairs:
        if pair.contrast.remark:
            notes.append(f"{pair.a.dataset}, {pair.a.network}, T = {_steps(pair.a)}: {pair.contrast.remark}")
        elif pair.a.seeds != pair.b.seeds and "paired" in (pair.contrast.test or "").split():
            notes.append(
                f"{pair.a.dataset}, {pair.a.network}, T = {_steps(pair.a)}: the difference is over the "
                f"{pair.contrast.common_seeds} common seeds alone"
            )
    return notes


def _tradeoffs(found: Comparison) -> Table:
    heads = [
        Column("Dataset"), Column("Network"), Column("At equal latency", True), Column("over ms", True),
        Column("Time at equal accuracy", True), Column("over %", True),
    ]  # fmt: skip
    remarks = [(each, each.remark or (each.tradeoff.remark if each.tradeoff else None)) for each in found.curves]
    return Table(
        title="Accuracy against latency",
        caption=f"At equal latency: percentage points that {found.a} is better than {found.b}; at equal accuracy: its "
        f"time as a multiple of {found.b}'s. Straight lines between the Pareto-optimal points, mean over the range "
        "that both cover.",
        columns=heads,
        rows=[[Entry(text) for text in _curve(each)] for each in found.curves],
        notes=[f"{each.a.dataset}, {_both(each.a.network, each.b.network)}: {text}" for each, text in remarks if text],
    )


def _curve(each: Curves) -> Sequence[str]:
    t = each.tradeoff
    return [
        each.a.dataset,
        _both(each.a.network, each.b.network),
        "–" if t is None or t.accuracy_gain is None else f"{t.accuracy_gain:+.2f}",
        "–" if t is None or t.latencies is None else _range(*t.latencies),
        "–" if t is None or t.latency_ratio is None else f"{digits(t.latency_ratio)} ×",
        "–" if t is None or t.accuracies is None else _range(*t.accuracies),
    ]


def _range(low: float, high: float) -> str:
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _steps(cell: Cell) -> str:
    return str(cell.time_steps) if cell.spiking else "–"


def _both(a: str, b: str) -> str:
    return a if a == b else f"{a} / {b}"
