"""One trial from its configuration to its record: the same code in a Tune actor, a Train worker and a bare process."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from harness import allocator, checkpoint, cost, plugins, provenance, record, storage
from harness.config import Block, Evaluation
from harness.contract import Method
from harness.data import loader
from harness.loop import Diverged, Setup, Training, evaluate, precision
from harness.metrics import Tally
from harness.plan import Trial
from harness.record import Outcome, Record

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]


class Run(Block):
    """What all trials of a sweep share and no result depends on."""

    experiment: str
    folder: str
    """Absolute folder of the records."""
    evaluation: Evaluation
    loader: Literal["auto", "memory", "ffcv", "torch"] = "auto"
    threads: int = 1
    """Torch threads of one worker."""
    gpu: bool = False
    command: str | None = None
    commit: str | None = None
    dirty: bool | None = None

    def checkpoints(self, trial: Trial) -> Path:
        """Folder of a trial's weights and of the state it continues from."""
        return storage.at(self.folder) / "checkpoints" / trial.id

    def weights(self, trial: Trial) -> Path:
        """File of a trial's selected weights."""
        return self.checkpoints(trial) / checkpoint.WEIGHTS


def run(trial: Trial, run: Run, *, rank: int = 0, world: int = 1, report: Report | None = None) -> Record | None:
    """Train, evaluate and record one trial, going on from its checkpoint if there is one.

    Rank 0 writes and returns the record; the other workers return None. `report` is called after every epoch, on all
    workers, once the epoch is safe on disk.
    """
    started = time.monotonic()
    allocator.keep_memory()
    cost.reset_peak_memory()
    torch.set_num_threads(run.threads)
    device = torch.device("cuda", torch.cuda.current_device()) if run.gpu else torch.device("cpu")
    data = _open(trial, run, device)
    try:
        is_new = not checkpoint.exists(run.checkpoints(trial))
        setup = _setup(trial, run, data, device, rank, world)
        training = Training(replace(setup, weights=_weights_before(trial, run) if is_new else None))
        progress = _restore(training, run.checkpoints(trial), started)
        try:
            for epoch in training.epochs():
                if rank == 0:
                    _save(training, run.checkpoints(trial), progress)
                if report:
                    report({"epoch": epoch.epoch, **epoch.model_dump(exclude={"extras", "epoch"}, exclude_none=True)})
        except Diverged as diverged:
            return _finish(trial, run, progress, rank, outcome="diverged", reason=str(diverged), training=training)
        training.use_selected()
        return _finish(trial, run, progress, rank, outcome="done", training=training)
    finally:
        data.close()


class _Progress:
    """How long and how often this trial has been at it, over restarts."""

    def __init__(self, started: float, elapsed: float = 0.0, restarts: int = 0, since: str | None = None) -> None:
        self.started, self.elapsed, self.restarts = started, elapsed, restarts
        self.since = since or datetime.now(UTC).isoformat(timespec="seconds")

    @property
    def seconds(self) -> float:
        return self.elapsed + time.monotonic() - self.started

    def state(self) -> dict[str, Any]:
        return {"elapsed": self.seconds, "restarts": self.restarts, "since": self.since}


def _open(trial: Trial, run: Run, device: torch.device) -> loader.Data:
    block = trial.dataset.model_copy(update={"loader": run.loader})
    return loader.open_data(block, time_steps=trial.time_steps, device=device)


def _setup(trial: Trial, run: Run, data: loader.Data, device: torch.device, rank: int, world: int) -> Setup:
    return Setup(
        method=plugins.load("methods", trial.method),  # type: ignore[arg-type]
        config=trial.config(), task=trial.task(data.info), recipe=trial.train, feed=data, seed=trial.seed,
        selection=trial.selection, device=device, evaluation_batch_size=run.evaluation.batch_size,
        rank=rank, world=world,
    )  # fmt: skip


def _weights_before(trial: Trial, run: Run) -> dict[str, torch.Tensor] | None:
    """The trained weights of the trial that this one starts from, if it does."""
    if trial.start is None:
        return None
    file = run.weights(trial.start)
    if not file.exists():
        raise FileNotFoundError(lost(trial.start, run))
    return checkpoint.load_weights(file)


def lost(source: Trial, run: Run) -> str:
    """What to do when a trial to start from has its record but no longer its weights."""
    return (
        f"{run.weights(source)}: no weights of '{source.label}' to start from; copy them here from where they were "
        f"trained, or delete {record.path(storage.at(run.folder), source.id)} to train them again"
    )


def _save(training: Training, folder: Path, progress: _Progress) -> None:
    checkpoint.save(folder, {"training": training.state(), "progress": progress.state()})


def _restore(training: Training, folder: Path, started: float) -> _Progress:
    """Continue from a checkpoint if there is one. The folder bears the trial's id, so it can only be this trial's."""
    state = checkpoint.load(folder)
    if state is None:
        return _Progress(started)
    training.restore(state["training"])
    before = state["progress"]
    log.info("%s continues after epoch %d", folder.name, len(training.history))
    return _Progress(started, before["elapsed"], before["restarts"] + 1, before["since"])


def _finish(
    trial: Trial, run: Run, progress: _Progress, rank: int, *, outcome: Outcome, training: Training,
    reason: str | None = None,
) -> Record | None:  # fmt: skip
    """Evaluate on the test split, measure what it costs, write the record and the selected weights."""
    test = training.evaluate("test") if outcome == "done" else None
    if rank != 0:
        return None
    setup, folder = training.setup, run.checkpoints(trial)
    best = training.best if outcome == "done" else None
    if best:
        checkpoint.save_weights(folder, best["weights"])
    result = blank(trial, run, outcome, reason).model_copy(
        update={
            "selected_epoch": best["epoch"] if best else None,
            "validation_accuracy": best["validation_accuracy"] if best else None,
            **(tested(test) if test else {}),
            "history": training.history,
            "cost": _cost(training, run.evaluation) if best else record.Cost(),
            "data": _data(setup.feed),
            "started": progress.since,
            "wall_seconds": progress.seconds,
            "restarts": progress.restarts,
            "weights": checkpoint.WEIGHTS if best else None,
        }
    )
    record.write(result, storage.at(run.folder))
    checkpoint.discard(folder)
    return result


def _cost(training: Training, evaluation: Evaluation) -> record.Cost:
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


def _data(feed: Any) -> dict[str, Any]:
    return {
        "title": feed.info.title, "fingerprint": feed.fingerprint, "sizes": dict(feed.sizes), "loader": feed.kind,
    }  # fmt: skip


def tested(tally: Tally) -> dict[str, Any]:
    """A test tally as fields of a record: accuracy in percent after each time step, loss, number of samples."""
    accuracy = {step: round(value, 6) for step, value in enumerate(tally.accuracies, start=1)}
    return {"accuracy": accuracy, "test_loss": tally.mean_loss, "test_samples": tally.samples}


def blank(trial: Trial, run: Run, outcome: Outcome, reason: str | None = None) -> Record:
    """A record that says who, what and from where, without any figure."""
    return Record(
        id=trial.id, experiment=run.experiment, trial=trial.model_dump(mode="json"), outcome=outcome, reason=reason,
        spiking=getattr(plugins.load("methods", trial.method), "SPIKING", True),
        selection=trial.selection, machine=provenance.machine(), versions=provenance.versions(),
        commit=run.commit, dirty=run.dirty, command=run.command,
    )  # fmt: skip


def reevaluate(result: Record, folder: Path, time_steps: int) -> Tally:
    """The test tally of a recorded network simulated for `time_steps` steps, from its stored weights.

    Raises FileNotFoundError when the weights are not there.
    """
    trial = Trial.model_validate(result.trial)
    settings = Run(experiment=result.experiment, folder=str(folder), evaluation=Evaluation())
    file = settings.checkpoints(trial) / (result.weights or checkpoint.WEIGHTS)
    if not file.exists():
        raise FileNotFoundError(f"{file}: no weights; they are kept on the machine that trained them")
    trial = trial.model_copy(update={"time_steps": time_steps})
    method: Method = plugins.load("methods", trial.method)  # type: ignore[assignment]
    data = _open(trial, settings, torch.device("cpu"))
    try:
        config, task = trial.config(), trial.task(data.info)
        net = method.build(config, task)
        net.load_state_dict(checkpoint.load_weights(file))
        return evaluate(
            net, method, config, task, data, "test",
            batch_size=settings.evaluation.batch_size, limit_batches=trial.train.limit_batches,
            device=torch.device("cpu"),
        )  # fmt: skip
    finally:
        data.close()
