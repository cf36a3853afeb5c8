"""One trial from its configuration to its record: the same code in a Tune actor, a Train worker and a bare process."""

import logging
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist

from harness import allocator, checkpoint, cost, memory, plugins, record, result, storage
from harness.config import Block, Evaluation
from harness.contract import Method
from harness.data import loader
from harness.evaluation import evaluate
from harness.loop import Diverged, Setup, Training
from harness.memory import Lack, Meeting
from harness.metrics import Tally
from harness.pauses import Pauses
from harness.plan import Trial
from harness.record import Outcome, Record
from harness.result import Progress, blank

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
Guard = Callable[[], None]
"""Raises where the trial has become another process's to train."""


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
    gpus_per_worker: float = 0.0
    """Accelerators, or the part of one, that each worker holds; 0 with `gpu`: one."""
    checkpoint_steps: int | None = None
    """Updates after which a trial is saved inside an epoch, too."""
    command: str | None = None
    commit: str | None = None
    dirty: bool | None = None

    def checkpoints(self, trial: Trial) -> Path:
        """Folder of a trial's weights and of the state it continues from."""
        return storage.at(self.folder) / "checkpoints" / trial.id

    def weights(self, trial: Trial) -> Path:
        """File of a trial's selected weights."""
        return self.checkpoints(trial) / checkpoint.WEIGHTS


def run(
    trial: Trial, run: Run, *, rank: int = 0, world: int = 1, report: Report | None = None,
    stopping: Callable[[], bool] | None = None, guard: Guard | None = None,
) -> Record | None:  # fmt: skip
    """Train, evaluate and record one trial, going on from its checkpoint if there is one.

    Rank 0 writes and returns the record; the other workers return None. `report` is called after every epoch, on all
    workers, once the epoch is safe on disk. `stopping` is asked about once a second; once any worker says yes, the
    trial is saved where it is and all workers raise `loop.Stopped`. Memory that does not suffice makes a record with
    outcome `failed`, or under `train.micro_batches: auto` smaller parts of a batch. `guard` is called before anything
    is written.
    """
    started = time.monotonic()
    allocator.keep_memory()
    torch.set_num_threads(run.threads)
    device = torch.device("cuda", torch.cuda.current_device()) if run.gpu else torch.device("cpu")
    place = _Place(trial, run, device, rank, world, started, guard)
    meeting, parts = Meeting(world), 1 if trial.train.micro_batches == "auto" else trial.train.micro_batches
    data = _open(trial, run, device)
    try:
        while True:
            cost.reset_peak_memory()
            try:
                return _trained(place, data, parts, report, stopping)
            except Exception as error:
                lack = _lack(error, device) if memory.is_lacking(error) else None
                if lack is None and (world == 1 or not isinstance(error, RuntimeError)):
                    raise
                broken, told = str(error), traceback.format_exc()
            # Not before the error is gone, whose traceback holds the network, and so the connections.
            if lack is not None:
                meeting.tell(lack)
            elif (lack := meeting.hear()) is None:
                log.error(told)
                raise RuntimeError(broken)
            if (more := _more_parts(trial, parts, world, lack)) is None:
                return _failed(place, lack)
            log.warning("%s: out of memory %s; on with %d parts of a batch", trial.name, lack.reason, more)
            meeting.again()
            parts = more
    finally:
        data.close()


class _Place(NamedTuple):
    """Where one worker of a trial stands."""

    trial: Trial
    run: Run
    device: torch.device
    rank: int
    world: int
    started: float
    guard: Guard | None = None

    @property
    def folder(self) -> Path:
        return self.run.checkpoints(self.trial)

    def may_write(self) -> None:
        """Raise where the trial has become another process's."""
        if self.guard:
            self.guard()


def _trained(
    place: "_Place", data: loader.Data, parts: int, report: Report | None, stopping: Callable[[], bool] | None
) -> Record | None:
    """Train from the checkpoint or the beginning, in so many parts of a batch or the more that the checkpoint had."""
    trial, run = place.trial, place.run
    state = _state(place)
    progress = Progress(place.started) if state is None else Progress.again(place.started, state["progress"])
    progress.parts = max(parts, progress.parts)
    weights = _weights_before(trial, run) if state is None else None
    training = Training(_setup(place, data, progress.parts, weights))
    if state is not None:
        training.restore(state["training"])
        log.info("%s continues after epoch %d", trial.id, len(training.history))
        del state

    def save(found: dict[str, Any]) -> None:
        place.may_write()
        checkpoint.save(place.folder, {"training": found, "progress": progress.state()})

    try:
        for epoch in training.epochs(Pauses(save, run.checkpoint_steps, stopping)):
            if place.rank == 0:
                save(training.state())
            if report:
                report({"epoch": epoch.epoch, **epoch.model_dump(exclude={"extras", "epoch"}, exclude_none=True)})
    except Diverged as diverged:
        return _finish(place, progress, training, outcome="diverged", reason=str(diverged))
    training.use_selected()
    return _finish(place, progress, training, outcome="done")


def _state(place: _Place) -> dict[str, Any] | None:
    """What to go on from: what rank 0 finds, so that all workers have the same however storage shows it to them."""
    found: list[Any] = [checkpoint.load_bytes(place.folder) if place.rank == 0 else None]
    if place.world > 1:
        dist.broadcast_object_list(found, 0)
    return None if found[0] is None else checkpoint.parsed(found[0])


def _lack(error: Exception, device: torch.device) -> Lack:
    peak, kind = cost.peak_memory(device)
    reason = " ".join(str(error).split()) or type(error).__name__
    return Lack(reason, isinstance(error, memory.OutOfMemory), peak, kind)


def _more_parts(trial: Trial, parts: int, world: int, lack: Lack) -> int | None:
    """In how many parts to try again, if that can help."""
    if trial.train.micro_batches != "auto" or not lack.in_step:
        return None
    return memory.more_parts(parts, trial.train.batch_size // world)


def _failed(place: _Place, lack: Lack) -> Record | None:
    """The record of a trial that needs more memory than there is."""
    if place.rank != 0:
        return None
    reason = f"out of memory {lack.reason}; {memory.ADVICE}"
    spent = record.Cost(peak_memory_bytes=lack.peak_bytes, peak_memory_kind=lack.peak_kind)
    found = blank(place.trial, place.run, "failed", reason).model_copy(update={"cost": spent})
    place.may_write()
    record.write(found, storage.at(place.run.folder))
    return found


def _open(trial: Trial, run: Run, device: torch.device) -> loader.Data:
    block = trial.dataset.model_copy(update={"loader": run.loader})
    return loader.open_data(block, time_steps=trial.time_steps, device=device)


def _setup(place: _Place, data: loader.Data, parts: int, weights: dict[str, torch.Tensor] | None) -> Setup:
    trial, run = place.trial, place.run
    return Setup(
        method=plugins.load("methods", trial.method),  # type: ignore[arg-type]
        config=trial.config(), task=trial.task(data.info), recipe=trial.train, feed=data, seed=trial.seed,
        selection=trial.selection, device=place.device, evaluation_batch_size=run.evaluation.batch_size,
        rank=place.rank, world=place.world, weights=weights, parts=parts,
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


def _finish(
    place: _Place, progress: Progress, training: Training, *, outcome: Outcome, reason: str | None = None
) -> Record | None:
    """Evaluate on the test split, measure what it costs, write the record and the selected weights."""
    trial, run, folder = place.trial, place.run, place.folder
    test = training.evaluate("test", run.evaluation.confidences) if outcome == "done" else None
    hours = result.hours(progress, world=place.world, accelerators=run.gpus_per_worker or float(run.gpu))
    if place.rank != 0:
        return None
    setup = training.setup
    best = training.best if outcome == "done" else None
    place.may_write()
    if best:
        checkpoint.save_weights(folder, best["weights"])
    found = blank(trial, run, outcome, reason).model_copy(
        update={
            "selected_epoch": best["epoch"] if best else None,
            "validation_accuracy": best["validation_accuracy"] if best else None,
            **(result.tested(test, run.evaluation.confidences, setup.task.classes) if test else {}),
            "history": training.history,
            "cost": (result.spent(training, run.evaluation) if best else record.Cost()).model_copy(update=hours),
            "data": result.data(setup.feed),
            "started": progress.since,
            "wall_seconds": progress.seconds,
            "restarts": progress.restarts,
            "micro_batches": progress.parts if progress.parts > 1 else None,
            "weights": checkpoint.WEIGHTS if best else None,
        }
    )
    place.may_write()
    record.write(found, storage.at(run.folder))
    checkpoint.discard(folder)
    return found


def reevaluate(measured: Record, folder: Path, time_steps: int) -> Tally:
    """The test tally of a recorded network simulated for `time_steps` steps, from its stored weights.

    Raises FileNotFoundError when the weights are not there.
    """
    trial = Trial.model_validate(measured.trial)
    settings = Run(experiment=measured.experiment, folder=str(folder), evaluation=Evaluation())
    file = settings.checkpoints(trial) / (measured.weights or checkpoint.WEIGHTS)
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
