"""What a trial's record says of it: who ran what and how long, what it showed, what it costs."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch

from harness import cost, plugins, provenance, record, vitals
from harness.config import Evaluation
from harness.evaluation import precision
from harness.loop import Training
from harness.metrics import Tally
from harness.plan import Trial
from harness.record import Outcome, Record

if TYPE_CHECKING:
    from harness.trial import Run


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
            batch_size=evaluation.latency_batch_size, repeats=evaluation.latency_repeats, device=setup.device,
            samples_per_epoch=min(
                setup.feed.sizes["train"] // setup.recipe.batch_size,
                setup.recipe.limit_batches or setup.feed.sizes["train"],
            ) * setup.recipe.batch_size,
        )  # fmt: skip


def data(feed: Any) -> dict[str, Any]:
    """Which data it was, and how they were fed."""
    return {
        "title": feed.info.title, "fingerprint": feed.fingerprint, "sizes": dict(feed.sizes), "loader": feed.kind,
    }  # fmt: skip


def tested(tally: Tally) -> dict[str, Any]:
    """A test tally as fields of a record: accuracy in percent after each time step, loss, number of samples."""
    accuracy = {step: round(value, 6) for step, value in enumerate(tally.accuracies, start=1)}
    return {"accuracy": accuracy, "test_loss": tally.mean_loss, "test_samples": tally.samples}


def blank(trial: Trial, run: "Run", outcome: Outcome, reason: str | None = None) -> Record:
    """A record that says who, what and from where, without any figure."""
    return Record(
        id=trial.id, experiment=run.experiment, trial=trial.model_dump(mode="json"), outcome=outcome, reason=reason,
        spiking=getattr(plugins.load("methods", trial.method), "SPIKING", True),
        selection=trial.selection, machine=provenance.machine(), versions=provenance.versions(),
        commit=run.commit, dirty=run.dirty, command=run.command,
    )  # fmt: skip
