"""Two samples of seeds -> their difference, how sure it is, how large, and how many seeds would show it. Pure.

Paired: Student's t on the differences, effect size d_z = mean / standard deviation of the differences. Otherwise:
Welch's t, effect size Hedges' g (pooled standard deviation, small-sample factor 1 - 3 / (4 df - 1)). Seeds needed:
Guenther's formulas (The American Statistician 35(4), 1981), the normal approximation with a correction for t: for
differences n = ((z_a + z_b) / d)^2 + z_a^2 / 2, for two samples of n each 2 ((z_a + z_b) / d)^2 + z_a^2 / 4, where z_a
belongs to the confidence, two-sided, and z_b to the power.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Test = Literal["paired t", "Welch's t", "bootstrap, paired", "bootstrap, unpaired"]

RESAMPLES = 10_000
POWER = 0.8


@dataclass(frozen=True)
class Contrast:
    """First minus second; in percentage points for accuracies. What cannot be known is None, and `remark` says why."""

    difference: float
    common_seeds: int
    test: Test | None
    """What gives the interval; None where there is none."""
    low: float | None
    high: float | None
    p: float | None
    """Two-sided, of the t test; None for a bootstrap."""
    effect: float | None
    effect_name: Literal["d_z", "Hedges' g"] | None
    more_seeds: int | None
    """Further seeds of each until this difference, were it the true one, would be seen with a power of 80 %."""
    remark: str | None


def of(
    first: Mapping[int, float], second: Mapping[int, float], *, confidence: float = 0.95, bootstrap: bool = False
) -> Contrast:
    """Seed -> value of each, at least one each: paired where they share two seeds or more, then over those alone."""
    common = sorted(first.keys() & second.keys())
    if len(common) >= 2:
        return _paired([first[seed] - second[seed] for seed in common], confidence, bootstrap)
    a, b = ([sample[seed] for seed in sorted(sample)] for sample in (first, second))
    if min(len(a), len(b)) >= 2:
        return _unpaired(a, b, len(common), confidence, bootstrap)
    difference = _mean(a) - _mean(b)
    return Contrast(difference, len(common), None, None, None, None, None, None, None, "a single seed: no interval")


def seeds_needed(effect: float, *, is_paired: bool, confidence: float = 0.95, power: float = POWER) -> int | None:
    """Seeds of each for an effect of this size, by Guenther's formula, at least 2; None for no effect: never enough."""
    from scipy.stats import norm

    if effect == 0:
        return None
    at_level, at_power = norm.ppf((1 + confidence) / 2), norm.ppf(power)
    ratio = ((at_level + at_power) / effect) ** 2
    needed = ratio + at_level**2 / 2 if is_paired else 2 * ratio + at_level**2 / 4
    return max(2, math.ceil(needed)) if math.isfinite(needed) else None


def _paired(differences: Sequence[float], confidence: float, bootstrap: bool) -> Contrast:
    mean, count = _rounded(_mean(differences)), len(differences)
    deviation = statistics.stdev(differences)
    if _is_nothing(deviation, differences):
        return _without_spread(mean, count, "paired t", "d_z")
    half, p = _student(mean, deviation / math.sqrt(count), count - 1, confidence)
    effect = mean / deviation
    needed = seeds_needed(effect, is_paired=True, confidence=confidence)
    more = None if needed is None else max(0, needed - count)
    if bootstrap:
        low, high = _resampled([differences], confidence)
        return Contrast(mean, count, "bootstrap, paired", low, high, None, effect, "d_z", more, None)
    return Contrast(mean, count, "paired t", mean - half, mean + half, p, effect, "d_z", more, None)


def _unpaired(a: Sequence[float], b: Sequence[float], common: int, confidence: float, bootstrap: bool) -> Contrast:
    difference = _rounded(_mean(a) - _mean(b))
    variances = statistics.variance(a), statistics.variance(b)
    if _is_nothing(math.sqrt(max(variances)), [*a, *b]):
        return _without_spread(difference, common, "Welch's t", "Hedges' g")
    squares = [variance / len(sample) for variance, sample in zip(variances, (a, b), strict=True)]
    freedom = sum(squares) ** 2 / sum(s**2 / (len(x) - 1) for s, x in zip(squares, (a, b), strict=True))
    half, p = _student(difference, math.sqrt(sum(squares)), freedom, confidence)
    pooled_freedom = len(a) + len(b) - 2
    pooled = math.sqrt(((len(a) - 1) * variances[0] + (len(b) - 1) * variances[1]) / pooled_freedom)
    effect = difference / pooled
    needed = seeds_needed(effect, is_paired=False, confidence=confidence)
    more = None if needed is None else max(0, needed - min(len(a), len(b)))
    effect *= 1 - 3 / (4 * pooled_freedom - 1)
    if bootstrap:
        low, high = _resampled([a, b], confidence)
        return Contrast(difference, common, "bootstrap, unpaired", low, high, None, effect, "Hedges' g", more, None)
    low, high = difference - half, difference + half
    return Contrast(difference, common, "Welch's t", low, high, p, effect, "Hedges' g", more, None)


def _without_spread(difference: float, common: int, test: Test, effect_name: Literal["d_z", "Hedges' g"]) -> Contrast:
    """Seeds that all say the same leave nothing to estimate a spread from."""
    if difference == 0:
        remark = "no difference, and no spread"
        return Contrast(0.0, common, test, 0.0, 0.0, 1.0, 0.0, effect_name, None, remark)
    remark = "no spread between seeds: no interval"
    return Contrast(difference, common, None, None, None, None, None, None, None, remark)


def _student(mean: float, error: float, freedom: float, confidence: float) -> tuple[float, float]:
    """Half the width of the interval, and the two-sided p of a true mean of zero."""
    from scipy.special import stdtr, stdtrit

    return float(stdtrit(freedom, (1 + confidence) / 2)) * error, float(2 * stdtr(freedom, -abs(mean / error)))


def _resampled(samples: Sequence[Sequence[float]], confidence: float) -> tuple[float, float]:
    """Percentile interval of the mean of the first, less that of the second if there is one; the same every time."""
    import numpy as np

    chance = np.random.default_rng(0)
    means = [
        np.asarray(sample)[chance.integers(0, len(sample), (RESAMPLES, len(sample)))].mean(axis=1) for sample in samples
    ]
    differences = means[0] - (means[1] if len(means) > 1 else 0.0)
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _is_nothing(deviation: float, values: Sequence[float]) -> bool:
    """Whether a deviation is no more than rounding leaves of equal values."""
    return deviation <= 1e-12 * max(1.0, *map(abs, values))


def _rounded(difference: float) -> float:
    """Zero for what rounding leaves of none: records hold percentages to six decimals."""
    return difference if abs(difference) > 2e-6 else 0.0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
