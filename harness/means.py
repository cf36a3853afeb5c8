"""What was measured of several seeds -> one figure: means, medians, deviations. Pure."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from harness.record import EarlyExit, Energy, Latency, Operations

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Statistic:
    """Mean over seeds with the sample standard deviation; `std` is None for a single seed."""

    mean: float
    std: float | None
    n: int


def statistic(values: Iterable[float | None]) -> Statistic | None:
    """Mean, sample standard deviation and count of the values that are there; None without any."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean = math.fsum(known) / len(known)
    if len(known) == 1:
        return Statistic(mean, None, 1)
    # `statistics.stdev` reckons with fractions, which takes thirty times as long.
    return Statistic(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1)), len(known))


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are there; None without any."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _fmean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def by_key(seeds: Sequence[Mapping[Key, float]], average: Callable[[Iterable[float | None]], Value | None]) -> Any:
    """The average over seeds of each key that any of them has, in the order of keys as they come."""
    keys = dict.fromkeys(key for values in seeds for key in values)
    return {key: average(values.get(key) for values in seeds) for key in keys}


def early_exit(seeds: Sequence[Sequence[EarlyExit]]) -> tuple[EarlyExit, ...]:
    """The means at each confidence, rising."""
    groups = grouped([entry for entries in seeds for entry in entries], lambda entry: entry.confidence)
    return tuple(
        EarlyExit(
            confidence=confidence,
            mean_time_steps=_fmean([entry.mean_time_steps for entry in groups[confidence]]),
            accuracy=_fmean([entry.accuracy for entry in groups[confidence]]),
        )
        for confidence in sorted(groups)
    )


def latencies(measured: Sequence[Latency]) -> tuple[Latency, ...]:
    """One for each batch size and t; those of other devices than the first by name are left out."""
    first = min((entry.device for entry in measured), default=None)
    groups = grouped(
        [entry for entry in measured if entry.device == first], lambda entry: (entry.batch_size, entry.time_steps)
    )
    return tuple(_median(groups[key]) for key in sorted(groups))


def _median(alike: Sequence[Latency]) -> Latency:
    if len(alike) == 1:
        return alike[0].model_copy(update={"state": {}})
    p99 = [entry.p99_ms for entry in alike if entry.p99_ms is not None]
    return Latency.model_construct(
        batch_size=alike[0].batch_size,
        time_steps=alike[0].time_steps,
        median_ms=statistics.median([entry.median_ms for entry in alike]),
        p95_ms=statistics.median([entry.p95_ms for entry in alike]),
        p99_ms=statistics.median(p99) if p99 else None,
        repeats=sum(entry.repeats for entry in alike),
        device=alike[0].device,
        state={},
    )


def operations(counts: Sequence[Operations]) -> Operations | None:
    """The mean of each count; None without any."""
    if not counts:
        return None
    names = Operations.model_fields
    return Operations(**{name: _fmean([getattr(count, name) for count in counts]) for name in names})


def energy(estimates: Sequence[Energy]) -> Energy | None:
    """The mean of estimates made under the same assumptions; None when they differ, for then it means nothing."""
    assumptions = {(e.mac_picojoules, e.ac_picojoules, e.source, e.memory_source) for e in estimates}
    if len(assumptions) != 1:
        return None
    names = ("nanojoules", "memory_nanojoules", "ann_nanojoules", "ann_memory_nanojoules")
    return estimates[0].model_copy(update={name: mean(getattr(e, name) for e in estimates) for name in names})


def convergence(seeds: Sequence[Mapping[str, Mapping[str, Sequence[float]]]]) -> Any:
    """The mean over seeds of every series; seeds of one cell have the same layers and T."""
    if not seeds:
        return {}
    return {
        measure: {
            layer: [_fmean(step) for step in zip(*(seed[measure][layer] for seed in seeds), strict=True)]
            for layer in layers
        }
        for measure, layers in seeds[0].items()
    }


def grouped(items: Iterable[Value], key: Callable[[Value], Key]) -> dict[Key, list[Value]]:
    """The items by their key, both in the order in which they come."""
    groups: dict[Key, list[Value]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups
