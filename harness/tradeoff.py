"""Two methods' accuracy over latency -> which is better at equal latency, and faster at equal accuracy. Pure.

Each method is the straight lines between its Pareto-optimal points, so that accuracy rises with latency and either
gives the other. Means are over the range that both cover: nothing is extrapolated.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]
"""Latency in milliseconds a sample, accuracy in percent."""


@dataclass(frozen=True)
class Tradeoff:
    """First against second. None where the measured ranges do not overlap; `remark` says so."""

    accuracy_gain: float | None
    """Percentage points that the first is better at equal latency, mean over the common range."""
    latencies: Point | None
    """The range in milliseconds."""
    latency_ratio: float | None
    """What part of the second's time the first needs at equal accuracy: its mean over the second's."""
    accuracies: Point | None
    """The range in percent."""
    remark: str | None


def of(first: Iterable[Point], second: Iterable[Point]) -> Tradeoff:
    """Compare two methods by their measured points, at least one each."""
    a, b = front(first), front(second)
    latencies, accuracies = _common(a, b), _common(_swapped(a), _swapped(b))
    remarks = []
    if not latencies:
        remarks.append(f"latencies do not overlap: {_range(a, 0, 'ms')} and {_range(b, 0, 'ms')}")
    if not accuracies:
        remarks.append(f"accuracies do not overlap: {_range(a, 1, '%')} and {_range(b, 1, '%')}")
    gain = mean(a, *latencies) - mean(b, *latencies) if latencies else None
    ratio = mean(_swapped(a), *accuracies) / mean(_swapped(b), *accuracies) if accuracies else None
    return Tradeoff(gain, latencies, ratio, accuracies, "; ".join(remarks) or None)


def front(points: Iterable[Point]) -> list[Point]:
    """The points that no other one beats: latency and accuracy both rise."""
    found: list[Point] = []
    for latency, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not found or accuracy > found[-1][1]:
            found.append((latency, accuracy))
    return found


def mean(curve: Sequence[Point], low: float, high: float) -> float:
    """Mean height of the lines between points of rising x, from `low` to `high` within them; there, if they are one."""
    if low == high:
        return _at(curve, low)
    stops = [low, *(x for x, _ in curve if low < x < high), high]
    heights = [_at(curve, x) for x in stops]
    area = sum((stops[i + 1] - stops[i]) * (heights[i + 1] + heights[i]) / 2 for i in range(len(stops) - 1))
    return area / (high - low)


def _at(curve: Sequence[Point], x: float) -> float:
    for (left, below), (right, above) in pairwise(curve):
        if left <= x <= right:
            return below + (above - below) * (x - left) / (right - left)
    assert curve[0][0] == x, "within the range of one point is that point"
    return curve[0][1]


def _common(a: Sequence[Point], b: Sequence[Point]) -> Point | None:
    low, high = max(a[0][0], b[0][0]), min(a[-1][0], b[-1][0])
    return (low, high) if low <= high else None


def _swapped(curve: Sequence[Point]) -> list[Point]:
    return [(accuracy, latency) for latency, accuracy in curve]


def _range(curve: Sequence[Point], axis: int, unit: str) -> str:
    low, high = curve[0][axis], curve[-1][axis]
    return f"{low:.4g} {unit}" if low == high else f"{low:.4g} to {high:.4g} {unit}"
