"""What a trial's record says of it: who ran what and how long, what it showed, what it costs."""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness import cost, metrics, plugins, provenance, record, vitals
from harness.config import Evaluation
from harness.evaluation import in_time, precision
from harness.loop import Training
from harness.metrics import Tally
from harness.plan import Trial
from harness.record import EarlyExit, Outcome, Record

if TYPE_CHECKING:
    from harness.trial import Run


log = logging.getLogger(__name__)

CONVERGENCE_SAMPLES = 64
"""Figures of a layer are over all its neurons, so that few samples suffice."""


class Progress:
    """How long and how often this trial has been at it, over restarts."""

    def __init__(
        self, started: float, elapsed: float = 0.0, restarts: int = 0, since: str | None = None, parts: int = 1,
        system: dict[str, list[float]] | None = None,
    ) -> None:  # fmt: skip
        self.started, self.elapsed, self.restarts, self.parts = started, elapsed, restarts, parts
        self.since = since or datetime.now(UTC).isoformat(timespec="seconds")
        self.vitals = vitals.Watch(system, elapsed=self.seconds)

    @classmethod
    def again(cls, started: float, before: dict[str, Any]) -> "Progress":
        """After a restart."""
        parts, system = before.get("parts", 1), before.get("system")
        return cls(started, before["elapsed"], before["restarts"] + 1, before["since"], parts, system)

    @property
    def seconds(self) -> float:
        return self.elapsed + time.monotonic() - self.started

    def state(self) -> dict[str, Any]:
        return {
            "elapsed": self.seconds, "restarts": self.restarts, "since": self.since, "parts": self.parts,
            "system": self.vitals.series(),
        }  # fmt: skip


def spent(training: Training, evaluation: Evaluation) -> record.Cost:
    """What the trained network costs, measured."""
    setup = training.setup
    with torch.no_grad(), precision(setup.recipe, setup.device):
        return cost.measure(
            training.net, setup.method, setup.config, setup.task, setup.feed, training.history,
            evaluation=evaluation, device=setup.device,
            samples_per_epoch=min(
                setup.feed.sizes["train"] // setup.recipe.batch_size,
                setup.recipe.limit_batches or setup.feed.sizes["train"],
            ) * setup.recipe.batch_size,
        )  # fmt: skip


def convergence(training: Training) -> dict[str, dict[str, list[float]]]:
    """What the method's theory says vanishes with T, on a few test samples, to six digits; empty without a theory.

    Empty also where measuring it fails, which is logged: a method's mistake here costs no trained network.
    """
    measure = getattr(training.setup.method, "convergence", None)
    if measure is None:
        return {}
    try:
        return _converged(training, measure)
    except Exception:
        log.warning("convergence could not be measured", exc_info=True)
        return {}


@torch.no_grad()
def _converged(training: Training, measure: Callable[..., Any]) -> dict[str, dict[str, list[float]]]:
    setup = training.setup
    x = in_time(next(iter(setup.feed.batches("test", CONVERGENCE_SAMPLES)))[0], setup.task)
    training.net.eval()
    with precision(setup.recipe, setup.device):
        found = measure(training.net, x, setup.config)
    return {
        name: {layer: [float(f"{value:.6g}") for value in values.tolist()] for layer, values in layers.items()}
        for name, layers in found.items()
    }


def data(feed: Any) -> dict[str, Any]:
    """Which data it was, and how they were fed."""
    return {
        "title": feed.info.title, "fingerprint": feed.fingerprint, "sizes": dict(feed.sizes), "loader": feed.kind,
    }  # fmt: skip


def hours(progress: Progress, *, world: int, accelerators: float) -> dict[str, float]:
    """What the trial took until now as fields of a `Cost`; `accelerators` that each worker holds."""
    spent = progress.seconds * world / 3600
    return {"worker_hours": spent} | ({"accelerator_hours": spent * accelerators} if accelerators else {})


def tested(tally: Tally, confidences: Sequence[float], classes: int) -> dict[str, Any]:
    """A test tally as fields of a record: accuracy in percent after each time step, early exits, loss, samples."""
    found = {"accuracy": _by_step(tally.correct, tally), "test_loss": tally.mean_loss, "test_samples": tally.samples}
    if tally.anytime is None:
        return found
    if classes > metrics.TOP:
        found["accuracy_top5"] = _by_step(tally.anytime.correct_top5, tally)
    if len(tally.correct) > 1:  # with one step there is nothing to leave early
        found["early_exit"] = [
            EarlyExit(confidence=confidence, mean_time_steps=steps / tally.samples, accuracy=_percent(right, tally))
            for confidence, steps, right in sorted(
                zip(confidences, tally.anytime.exit_steps.tolist(), tally.anytime.exit_correct.tolist(), strict=True)
            )
        ]
    return found


def _by_step(correct: Tensor, tally: Tally) -> dict[int, float]:
    return {step: _percent(right, tally) for step, right in enumerate(correct.tolist(), start=1)}


def _percent(correct: float, tally: Tally) -> float:
    return round(100 * correct / tally.samples, 6)


def blank(trial: Trial, run: "Run", outcome: Outcome, reason: str | None = None) -> Record:
    """A record that says who, what and from where, without any figure."""
    return Record(
        id=trial.id, experiment=run.experiment, trial=trial.model_dump(mode="json"), outcome=outcome, reason=reason,
        spiking=getattr(plugins.load("methods", trial.method), "SPIKING", True),
        selection=trial.selection, machine=provenance.machine(), versions=provenance.versions(),
        commit=run.commit, dirty=run.dirty, command=run.command,
    )  # fmt: skip
