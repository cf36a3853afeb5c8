"""What a sweep will take: every trial from `timing`, all of them on the places that there are. Pure.

Wall-clock is found by list scheduling: whenever a place is free, it takes the next trial. What starts from another
trial waits for the whole wave before it, as in `sweep`; so do the studies of a search, which run one after the other.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from harness import stages
from harness.config import Experiment
from harness.plan import Trial
from harness.timing import NOTHING, Expected, Span


@dataclass(frozen=True)
class Overhead:
    """What a sweep takes beside its trials' own seconds; None: not measured, and so not in the forecast."""

    command: float | None = None
    """From the command to the first trial, and after the last one."""
    trial: float | None = None
    """Between two trials on the same place."""
    cold: float = 0.0
    """What the first trial of every place takes longer."""
    source: str = ""


@dataclass(frozen=True)
class Forecast:
    """What a sweep will take."""

    expected: Mapping[str, Expected]
    """Trial id -> what it takes, for trials that can be forecast."""
    unknown: Mapping[str, str]
    """Trial id -> why nothing can be said about it."""
    places: int
    used: int
    """Places that ever have a trial."""
    worker_seconds: Span
    """Over all workers of all trials."""
    wall: Span
    """Seconds until the last trial has ended; only of the trials that can be forecast."""
    notes: tuple[str, ...] = field(default=())


Guess = Callable[[Trial], Expected | str]


def of(experiment: Experiment, due: Sequence[Trial], guess: Guess, places: int, overhead: Overhead) -> Forecast:
    """The forecast for the trials that are due; of an optuna study each stands for its next point."""
    guesses = {trial.id: guess(trial) for trial in due}
    known = {name: each for name, each in guesses.items() if isinstance(each, Expected)}
    queues = queued(experiment, due)
    ends = {end: 0.0 for end in ("low", "mid", "high")}
    least = stopped_early(experiment)
    for end in ends:
        early = least if end == "low" else 1.0
        for queue in queues:
            lengths = [getattr(known[t.id].total, end) * early + (overhead.trial or 0) for t in queue if t.id in known]
            ends[end] += makespan(lengths, places)
    used = max((min(places, sum(trial.id in known for trial in queue)) for queue in queues), default=0)
    fixed = (overhead.command or 0) + overhead.cold if known else 0.0
    total = NOTHING
    for queue in queues:
        for trial in queue:
            if trial.id in known:
                total = total + known[trial.id].total.times(
                    trial.workers, low=trial.workers * stopped_early(experiment)
                )
    return Forecast(
        known, {name: each for name, each in guesses.items() if isinstance(each, str)}, places, used, total,
        Span(ends["low"] + fixed, ends["mid"] + fixed, ends["high"] + fixed), _notes(experiment, overhead),
    )  # fmt: skip


def queued(experiment: Experiment, due: Sequence[Trial]) -> list[list[Trial]]:
    """The trials as a sweep hands them out: one queue after the other, each only when the one before is empty."""
    found: list[list[Trial]] = []
    for wave in stages.waves(due):
        if experiment.sweep.search == "optuna":
            found += [list(points) for _, points in groupby(wave, key=lambda trial: trial.id)]
        elif experiment.sweep.asha:
            found += [list(study) for _, study in groupby(wave, key=lambda t: (t.label, t.time_steps, t.seed))]
        else:
            found.append(longest_first(wave))
    return found


def longest_first(trials: Iterable[Trial]) -> list[Trial]:
    """Trials of one wave, those with most steps of simulation first: so no long one is left alone at the end.

    Which one that is, is judged by epochs x T alone, so that it does not hang on what was measured before.
    """
    return sorted(trials, key=lambda trial: -trial.train.epochs * trial.time_steps)


def makespan(lengths: Iterable[float], places: int) -> float:
    """Seconds until all are done, when each place takes the next one as soon as it is free."""
    free = [0.0] * places
    for length in lengths:
        heapq.heapreplace(free, free[0] + length)
    return max(free, default=0.0)


def bound(lengths: Sequence[float], places: int) -> float:
    """What no order can beat: the longest one, and everything shared out evenly."""
    return max(max(lengths, default=0.0), sum(lengths) / places)


def stopped_early(experiment: Experiment) -> float:
    """The share of all epochs that trials run at least when ASHA stops as many as it may; 1 without it."""
    rule, epochs = experiment.sweep.asha, experiment.train.epochs
    if rule is None or epochs <= rule.grace_epochs:
        return 1.0
    run, left, rung = 0.0, 1.0, float(rule.grace_epochs)
    before = 0.0
    while rung < epochs:
        run += left * (rung - before)
        before, left, rung = rung, left / rule.reduction_factor, rung * rule.reduction_factor
    return (run + left * (epochs - before)) / epochs


def cost(hours: Span, nodes: Mapping[str, int], prices: Mapping[str, float]) -> Span | str:
    """US dollars for that many nodes of each type over those hours; or which price was not given."""
    missing = sorted(set(nodes) - set(prices))
    if missing:
        return f"no price was given for {', '.join(missing)} (--price {missing[0]}=USD for one node and hour)"
    return hours.times(sum(count * prices[kind] for kind, count in nodes.items()))


def _notes(experiment: Experiment, overhead: Overhead) -> tuple[str, ...]:
    notes = []
    if overhead.command is None:
        notes.append("starting Ray and its processes was not measured on this machine and is not in the wall-clock")
    if experiment.sweep.asha:
        notes.append("ASHA stops trials early: the lower end has as few epochs as its rungs allow, the middle has all")
    return tuple(notes)


def as_dict(span: Span) -> dict[str, Any]:
    """A span for JSON."""
    return {"low": span.low, "expected": span.mid, "high": span.high}
