"""What a table can say about a cell: every column by name, as text for people and as numbers for programs. Pure."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import means
from harness.cell import Cell
from harness.markup import Column
from harness.means import Statistic
from harness.numerals import digits, large, spread
from harness.record import Cost, EarlyExit
from harness.sheet import Sheet

CONFIDENCE = 0.9
"""Early exit is shown at the measured confidence next to this one."""


@dataclass(frozen=True)
class Measure:
    """A column that can be asked for by its name."""

    name: str
    title: str
    text: Callable[[Cell, Sheet], str]
    """Empty where nothing was measured."""
    figures: Callable[[Cell, Sheet], dict[str, Any]]
    """The same under the names of CSV and JSON; None for what was not measured."""
    is_default: bool = False
    is_number: bool = True

    @property
    def column(self) -> Column:
        """Its head."""
        return Column(self.title, self.is_number)


def chosen(names: Sequence[str]) -> list[Measure]:
    """The columns of these names, in this order; the default ones without any name.

    Raises ValueError for a name that is none, saying which there are.
    """
    known = {measure.name: measure for measure in MEASURES}
    for name in names:
        if name not in known:
            raise ValueError(f"no column '{name}' (there are: {', '.join(known)})")
    return [known[name] for name in dict.fromkeys(names)] or [measure for measure in MEASURES if measure.is_default]


def early_exit(cell: Cell) -> EarlyExit | None:
    """Deciding early at the confidence that is shown."""
    return min(cell.early_exit, key=lambda entry: abs(entry.confidence - CONFIDENCE), default=None)


def final_error(cell: Cell) -> dict[str, float]:
    """Measure of convergence -> its mean over layers after all T steps."""
    found = {name: means.mean(steps[-1] for steps in layers.values()) for name, layers in cell.convergence.items()}
    return {name: value for name, value in found.items() if value is not None}


def _plain(
    name: str, title: str, value: Callable[[Cell], float | None], shown: Callable[[float], str] = digits,
    *, key: str | None = None, scale: float = 1.0, is_default: bool = False,
) -> Measure:  # fmt: skip
    """A single number; tables show it times `scale`."""

    def text(cell: Cell, sheet: Sheet) -> str:
        found = value(cell)
        return "" if found is None else shown(scale * found)

    return Measure(name, title, text, lambda cell, _: {key or name: value(cell)}, is_default)


def _accuracy(cell: Cell, sheet: Sheet) -> str:
    star = " ★" if sheet.has_choice and cell.key in sheet.best else ""
    return spread(cell.accuracy) + star if cell.accuracy else ""


def _latency(cell: Cell, sheet: Sheet) -> str:
    return digits(cell.latency.median_ms) + (" ◆" if cell.key in sheet.fastest else "") if cell.latency else ""


def _latency_figures(cell: Cell, sheet: Sheet) -> dict[str, Any]:
    found = cell.latency
    return {
        "latency_median_ms": found.median_ms if found else None,
        "latency_batch_size": found.batch_size if found else None,
        "latency_device": found.device if found else None,
    }


def _batched(cell: Cell, sheet: Sheet) -> str:
    return f"{digits(cell.batched.median_ms)} ({cell.batched.batch_size})" if cell.batched else ""


def _samples(cell: Cell) -> float | None:
    """Predicted a second in the largest batch measured."""
    largest = cell.batched or cell.latency
    return largest.throughput if largest else None


def _fraction(layers: Callable[[Cost], Mapping[str, float]]) -> Callable[[Cell], float | None]:
    """The mean over layers and seeds."""
    return lambda cell: means.mean(means.mean(layers(record.cost).values()) for record in cell.done)


def _energy(name: str) -> Callable[[Cell], float | None]:
    return lambda cell: getattr(cell.energy, name) if cell.energy else None


def _with_memory(cell: Cell) -> float | None:
    energy = cell.energy
    return energy.nanojoules + energy.memory_nanojoules if energy and energy.memory_nanojoules is not None else None


def _ann_ratio(cell: Cell) -> float | None:
    """How many times the matched ordinary network's energy: like with like, with memory where both are known."""
    if not (energy := cell.energy) or not energy.ann_nanojoules:
        return None
    if energy.memory_nanojoules is None or energy.ann_memory_nanojoules is None:
        return energy.nanojoules / energy.ann_nanojoules
    return (energy.nanojoules + energy.memory_nanojoules) / (energy.ann_nanojoules + energy.ann_memory_nanojoules)


def _operations(name: str) -> Callable[[Cell], float | None]:
    return lambda cell: getattr(cell.operations, name) if cell.operations else None


def _early_text(cell: Cell, sheet: Sheet) -> str:
    found = early_exit(cell)
    return f"{found.mean_time_steps:.2f} ({found.accuracy:.2f} %)" if found else ""


def _early_figures(cell: Cell, sheet: Sheet) -> dict[str, Any]:
    found = early_exit(cell)
    return {
        "early_exit_confidence": found.confidence if found else None,
        "early_exit_mean_time_steps": found.mean_time_steps if found else None,
        "early_exit_accuracy": found.accuracy if found else None,
    }


def _error_text(cell: Cell, sheet: Sheet) -> str:
    return ", ".join(f"{digits(value)} {name.replace('_', ' ')}" for name, value in final_error(cell).items())


def _error_figures(cell: Cell, sheet: Sheet) -> dict[str, Any]:
    found = final_error(cell)
    return {
        "convergence": "; ".join(found) or None,
        "convergence_final": next(iter(found.values())) if len(found) == 1 else None,
    }


def _trials(cell: Cell, sheet: Sheet) -> str:
    # Where nothing was tuned there is nothing to tell.
    found = sheet.spent.get(cell.key) if sheet.has_choice else None
    if not found:
        return ""
    return str(found.trials) if found.hours is None else f"{found.trials} ({digits(found.hours)} h)"


def _trials_figures(cell: Cell, sheet: Sheet) -> dict[str, Any]:
    found = sheet.spent.get(cell.key)
    return {"tuning_trials": found.trials if found else None, "tuning_hours": found.hours if found else None}


def _failed(cell: Cell, sheet: Sheet) -> str:
    counts = Counter(failure.outcome for failure in cell.failures)
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))


def _failures(cell: Cell, sheet: Sheet) -> dict[str, Any]:
    texts = [f"seed {failure.seed} {failure.outcome}: {failure.reason}" for failure in cell.failures]
    return {"failures": "; ".join(texts), "num_failures": len(texts)}


def _statistic(name: str, value: Statistic | None) -> dict[str, Any]:
    return {f"{name}_mean": value.mean if value else None, f"{name}_std": value.std if value else None}


MEASURES = (
    Measure(
        "accuracy", "Accuracy %", _accuracy,
        lambda cell, _: _statistic("accuracy", cell.accuracy) | {"n": len(cell.seeds)}, is_default=True,
    ),
    Measure("top5", "Top-5 %", lambda cell, _: spread(cell.top5), lambda cell, _: _statistic("top5", cell.top5)),
    Measure(
        "validation", "Validation %", lambda cell, _: f"{cell.validation.mean:.2f}" if cell.validation else "",
        lambda cell, _: _statistic("validation", cell.validation), is_default=True,
    ),
    Measure("latency", "Latency ms/sample", _latency, _latency_figures, is_default=True),
    _plain("p95", "p95 ms", lambda cell: cell.latency.p95_ms if cell.latency else None, key="latency_p95_ms"),
    _plain("p99", "p99 ms", lambda cell: cell.latency.p99_ms if cell.latency else None, key="latency_p99_ms"),
    Measure(
        "batched", "Batched ms/sample (batch)", _batched,
        lambda cell, _: {
            "batched_median_ms": cell.batched.median_ms if cell.batched else None,
            "batched_batch_size": cell.batched.batch_size if cell.batched else None,
        },
    ),
    _plain("samples", "Samples/s", _samples, large, key="samples_per_second"),
    _plain("train_samples", "Trained samples/s", lambda cell: cell.throughput, large, key="train_samples_per_second"),
    _plain("memory", "Peak memory MB", lambda cell: cell.peak_memory_bytes, scale=1e-6, key="peak_memory_bytes"),
    _plain("firing_rate", "Firing rate %", lambda cell: cell.firing_rate, scale=100.0, is_default=True),
    _plain("dead", "Dead %", _fraction(lambda cost: cost.dead), scale=100.0),
    _plain("saturated", "Saturated %", _fraction(lambda cost: cost.saturated), scale=100.0),
    _plain("synops", "SynOps", lambda cell: cell.synops, large, is_default=True),
    _plain("macs", "Effective_MACs", _operations("Effective_MACs"), large, key="effective_macs"),
    _plain("acs", "Effective_ACs", _operations("Effective_ACs"), large, key="effective_acs"),
    _plain("dense", "Dense", _operations("Dense"), large),
    _plain("energy", "Energy nJ", _energy("nanojoules"), key="energy_nanojoules", is_default=True),
    _plain("energy_memory", "Energy with memory nJ", _with_memory, key="energy_with_memory_nanojoules"),
    _plain("energy_ann", "Energy of the ANN nJ", _energy("ann_nanojoules"), key="ann_energy_nanojoules"),
    _plain("energy_ratio", "Energy / ANN's", _ann_ratio, key="energy_to_ann"),
    _plain("parameters", "Parameters", lambda cell: cell.parameters, large),
    _plain("neurons", "Neurons", lambda cell: cell.neurons, large),
    _plain("train_seconds", "Train s", lambda cell: cell.train_seconds, is_default=True),
    _plain("worker_hours", "Worker h", lambda cell: cell.worker_hours),
    _plain("accelerator_hours", "Accelerator h", lambda cell: cell.accelerator_hours),
    Measure("trials", "Trials", _trials, _trials_figures, is_default=True),
    Measure("early_exit", "Early exit: mean T (accuracy)", _early_text, _early_figures),
    Measure("error", "Error at T", _error_text, _error_figures),
    Measure("failed", "Failed", _failed, _failures, is_default=True, is_number=False),
)  # fmt: skip
"""In the order in which they stand in a table."""

NAMES = tuple(measure.name for measure in MEASURES)
