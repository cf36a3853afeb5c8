"""Records -> what a trial takes, second by second, and from that what another one would take. Pure.

A trial takes epochs x (training samples x a training sample's seconds + validation samples x an evaluated sample's
seconds), and once: its start (opening data, building, compiling), its test samples and what measures latency.
A sample's seconds hang on T as a + b T, by least squares with neither below zero, where two T or more were measured;
from a single T they are taken as proportional to T. They are taken not to hang on batch size, epochs or data size.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.record import Record


@dataclass(frozen=True)
class Span:
    """Seconds: what to expect, and between what."""

    low: float
    mid: float
    high: float

    def __add__(self, other: "Span") -> "Span":
        return Span(self.low + other.low, self.mid + other.mid, self.high + other.high)

    def times(self, factor: float, *, low: float | None = None) -> "Span":
        """All three times a factor; `low`: another one for the lower end."""
        return Span(self.low * (factor if low is None else low), self.mid * factor, self.high * factor)


NOTHING = Span(0, 0, 0)


@dataclass(frozen=True)
class Work:
    """What makes two trials comparable."""

    method: str
    settings: str
    network: str
    dataset: str
    precision: str
    workers: int
    machine: str


@dataclass(frozen=True)
class Measured:
    """What one trial took."""

    work: Work
    time_steps: int
    batch_size: int
    train: Span
    """Seconds of a training sample."""
    evaluation: float
    """Seconds of a validation sample."""
    start: float
    """Seconds that are neither training nor evaluation."""
    source: str
    is_cold: bool = False
    """Whether its process was fresh, and had everything to load."""


@dataclass(frozen=True)
class Expected:
    """What one trial is expected to take, once its process is there."""

    total: Span
    epoch: Span
    """Of training alone."""
    source: str


def machine(facts: Mapping[str, Any], on_gpu: bool) -> str:
    """What a trial ran on, as forecasts tell machines apart."""
    gpus = facts.get("gpus") or []
    return f"GPU {gpus[0]}" if on_gpu and gpus else f"CPU {facts.get('cpu', 'unknown')}"


def work(trial: Mapping[str, Any], machine: str) -> Work:
    """What a trial's seconds hang on, but for T and amounts."""
    train = trial["train"]
    return Work(
        method=trial["method"], settings=_text(trial["settings"]), network=_text(trial["network"]),
        dataset=_text({k: v for k, v in trial["dataset"].items() if k not in _READING}),
        precision=f"{train.get('precision', 'float32')}{' compiled' if train.get('compile') else ''}",
        workers=trial["workers"], machine=machine,
    )  # fmt: skip


def measured(records: Iterable[Record], source: str = "records") -> list[Measured]:
    """What the finished ones of these records took; those that were continued after a crash are left out."""
    found = [each for result in records if (each := _measured(result, source)) is not None]
    if not found:
        return []
    usual = statistics.median(each.start for each in found)
    return [replace(each, is_cold=each.start - usual > max(0.5, 2 * usual)) for each in found]


def cold_seconds(found: Sequence[Measured]) -> float:
    """What the first trial of a fresh process takes longer than the others; zero where none was seen."""
    cold, warm = [m.start for m in found if m.is_cold], [m.start for m in found if not m.is_cold]
    return statistics.mean(cold) - statistics.median(warm) if cold and warm else 0.0


def expected(
    trial: Mapping[str, Any], sizes: Mapping[str, int], machine: str, found: Sequence[Measured]
) -> Expected | str:
    """What a trial takes on a machine, from what others took there; or the sentence why that cannot be said.

    `sizes`: samples of the parts 'train', 'validation' and 'test'.
    """
    wanted, recipe, time_steps = work(trial, machine), trial["train"], trial["time_steps"]
    alike, how = _alike(wanted, found)
    if not alike:
        return f"nothing like it was measured on {machine}"
    batches = min(sizes["train"] // recipe["batch_size"], recipe.get("limit_batches") or sizes["train"])
    if not batches:
        return f"a batch of {recipe['batch_size']} samples is more than the {sizes['train']} that there are"
    notes = [how] if how else []
    train, note = _at([(m.time_steps, m.train) for m in alike], time_steps)
    evaluation, _ = _at([(m.time_steps, Span(m.evaluation, m.evaluation, m.evaluation)) for m in alike], time_steps)
    if recipe["batch_size"] not in {m.batch_size for m in alike}:
        notes.append(f"measured with other batch sizes ({_listed(m.batch_size for m in alike)})")
    shared = wanted.workers / alike[0].work.workers
    epoch = train.times(batches * recipe["batch_size"] / shared)
    warm = [m.start for m in alike if not m.is_cold] or [statistics.median(m.start for m in found)]
    start = Span(min(warm), statistics.median(warm), max(warm))
    judged = (recipe["epochs"] or 1) * sizes["validation"] + sizes["test"]
    total = epoch.times(recipe["epochs"]) + evaluation.times(judged / shared) + start
    count = sum(m.time_steps == time_steps for m in alike) or len(alike)
    source = f"{count} {alike[0].source if count > 1 else alike[0].source.removesuffix('s')}"
    return Expected(total, epoch, "; ".join([source, *([note] if note else []), *notes]))


def _measured(result: Record, source: str) -> Measured | None:
    history, trial = result.history, result.trial
    if result.outcome != "done" or result.restarts or result.wall_seconds is None or not result.data.get("sizes"):
        return None
    recipe, sizes = trial["train"], result.data["sizes"]
    limit = recipe.get("limit_batches")
    samples = min(sizes["train"] // recipe["batch_size"], limit or sizes["train"]) * recipe["batch_size"]
    # The first epoch has things to warm up; they count as start.
    seconds = [epoch.seconds for epoch in history[1:]] or [epoch.seconds for epoch in history]
    judged = [epoch.evaluation_seconds for epoch in history if epoch.evaluation_seconds is not None]
    validated = min(sizes["validation"], limit * _EVALUATED if limit else sizes["validation"])
    usual = statistics.mean(seconds) if seconds else 0.0
    evaluation = statistics.median(judged) / validated if judged and validated else 0.0
    spent = usual * len(history) + sum(judged) + evaluation * (result.test_samples or 0)
    low, high = _quartiles(seconds)
    on_gpu = result.cost.peak_memory_kind == "device allocator"
    return Measured(
        work(trial, machine(result.machine, on_gpu)), trial["time_steps"], recipe["batch_size"],
        Span(low, usual, high).times(1 / samples) if samples else NOTHING, evaluation,
        max(result.wall_seconds - spent, 0.0), source,
    )  # fmt: skip


def _alike(wanted: Work, found: Sequence[Measured]) -> tuple[list[Measured], str]:
    """The measurements of the same work, else the nearest there are, and in what these differ."""
    perfectly = "with another number of workers, taken to share the work perfectly"
    for loose, how in (
        ((), ""),
        (("settings",), "with other settings"),
        (("workers",), perfectly),
        (("settings", "workers"), f"with other settings, {perfectly}"),
    ):
        open_: dict[str, Any] = {key: getattr(wanted, key) for key in loose}
        alike = [m for m in found if replace(m.work, **open_) == wanted]
        if alike:
            # Of several numbers of workers, the largest: it is the nearest to many.
            most = max(m.work.workers for m in alike)
            return [m for m in alike if m.work.workers == most], how
    return [], ""


def _at(points: Sequence[tuple[int, Span]], time_steps: int) -> tuple[Span, str]:
    """Seconds of a sample at T, from what was measured at some T, and how, where it was not this one."""
    by_steps: dict[int, list[Span]] = {}
    for steps, span in points:
        by_steps.setdefault(steps, []).append(span)
    means = {steps: _mean(spans) for steps, spans in by_steps.items()}
    if time_steps in means:
        return means[time_steps], ""
    if len(means) == 1:
        ((steps, span),) = means.items()
        ratio = time_steps / steps
        # Whatever does not grow with T makes more steps cheaper than that, and fewer dearer.
        bounds = sorted((1.0, ratio))
        return Span(span.low * bounds[0], span.mid * ratio, span.high * bounds[1]), f"proportional to T, from T={steps}"
    fitted = [_line({steps: getattr(span, end) for steps, span in means.items()}, time_steps) for end in _ENDS]
    return Span(*sorted(fitted)), f"a + bT from T={_listed(means)}"


def _line(points: Mapping[int, float], time_steps: int) -> float:
    """a + b T by least squares; where one of the two came out below zero, it is zero and the other is fitted alone."""
    steps, values = list(points), list(points.values())
    slope, intercept = statistics.linear_regression(steps, values)
    if slope < 0:
        return statistics.mean(values)
    if intercept < 0:
        slope, intercept = sum(t * v for t, v in points.items()) / sum(t * t for t in steps), 0.0
    return intercept + slope * time_steps


def _mean(spans: Sequence[Span]) -> Span:
    """Their mean, and where the means of several lie; the quartiles of the epochs of one that stands alone."""
    mids = [span.mid for span in spans]
    return spans[0] if len(spans) == 1 else Span(min(mids), statistics.mean(mids), max(mids))


def _quartiles(seconds: Sequence[float]) -> tuple[float, float]:
    if len(seconds) < 2:
        return (seconds[0], seconds[0]) if seconds else (0.0, 0.0)
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    usual = statistics.mean(seconds)
    return min(low, usual), max(high, usual)


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, default=str)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(numbers))))


_ENDS = ("low", "mid", "high")
_READING = {"loader", "os_cache", "validation", "split_seed"}
"""Keys of a dataset that change no sample's seconds, or only which samples there are."""
_EVALUATED = 256
"""Samples of a batch while evaluating, where a record does not say."""
