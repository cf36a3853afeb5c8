"""The training loop: plain torch, one process among equals. Knows no Ray, no MLflow and no plug-in by name."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from harness import midway, optim
from harness.config import Selection, Train
from harness.contract import Method, MethodConfig, Task
from harness.descent import Descent
from harness.evaluation import Feed, evaluate, in_time, precision
from harness.metrics import Tally
from harness.midway import Pass, seed_everything
from harness.models import synced
from harness.models.transfer import load
from harness.pauses import Pauses, Question
from harness.record import Epoch

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
CHECK_EVERY = 100
"""Batches between two looks at whether the loss is still finite; a look waits for the device."""


class Stopped(Exception):
    """The training was asked to stop and has been saved where it is."""


class Diverged(Exception):
    """The loss is no longer a finite number."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"loss not finite at step {step} (epoch {epoch})")
        self.epoch, self.step = epoch, step


@dataclass(frozen=True)
class Setup:
    """What stays the same during one training."""

    method: Method
    config: MethodConfig
    task: Task
    recipe: Train
    feed: Feed
    seed: int
    selection: Selection = "last"
    device: torch.device = CPU
    evaluation_batch_size: int = 256
    rank: int = 0
    world: int = 1
    weights: Mapping[str, Tensor] | None = None
    """State dict of the trial that this one starts from; None: fresh weights."""
    parts: int = 1
    """How many a worker's share of a batch is computed in."""


class Training:
    """One network on its way through the epochs; `state` and `restore` carry it over a crash, to the bit."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        torch.use_deterministic_algorithms(setup.recipe.deterministic, warn_only=True)
        seed_everything(setup.seed)
        self.net = setup.method.build(setup.config, setup.task).to(setup.device)
        if setup.recipe.compile:
            self._compile_loops()
        if setup.recipe.sync_batch_norm and setup.world > 1:
            for norm in synced.norms(self.net):
                norm.synced = True
        if setup.weights is not None:
            self._start(setup.weights)
        self.descent = Descent(
            self.net, setup.method, setup.config, setup.recipe, world=setup.world, parts=setup.parts
        )  # fmt: skip
        self.history: list[Epoch] = []
        self.best: dict[str, Any] | None = None
        self.midway: dict[str, Any] | None = None
        """This worker's state within the epoch that it goes on in."""

    def epochs(self, pauses: Pauses | None = None) -> Iterator[Epoch]:
        """Train the epochs that are left, yielding what each one showed; of none, judge the weights as they are.

        Raises Diverged when the loss is no longer finite, and Stopped, on all workers, when one is asked to stop:
        behind a step, before an evaluation or after it, for half an evaluation cannot be gone on with.
        """
        setup, pauses = self.setup, pauses or Pauses()
        question = Question(pauses.stopping, rank=setup.rank, world=setup.world, device=setup.device)
        if self.descent.settles and len(self.history) < setup.recipe.epochs:
            self._settle()
        if setup.recipe.epochs == 0:
            self._select(None, self.evaluate("validation"), None)
        for epoch in range(len(self.history), setup.recipe.epochs):
            self.history.append(self._epoch(epoch, pauses, question))
            yield self.history[-1]
            if question.now():
                raise Stopped

    def _settle(self) -> None:
        """A step that changes nothing, on blank samples; all generators are set anew before the next."""
        setup, task = self.setup, self.setup.task
        samples = min(2, setup.recipe.batch_size // setup.world // setup.parts)
        p = next(self.net.parameters())
        blank = p.new_zeros(task.time_steps if task.temporal else 1, samples, *task.shape)
        self.net.train()
        with self._precision():
            x = in_time(blank if task.temporal else blank[0], task)
            self.descent.settle(x, torch.zeros(samples, dtype=torch.int64, device=setup.device))

    def _compile_loops(self) -> None:
        """Let every layer of neurons that can do so fuse its loop over time."""
        layers: list[Any] = [layer for layer in self.net.modules() if hasattr(layer, "compile_loop")]
        for layer in layers:
            layer.compile_loop = True
        if not layers:
            log.warning("train.compile has no effect here: the method's neurons have no loop that can be compiled")

    @torch.no_grad()
    def _start(self, weights: Mapping[str, Tensor]) -> None:
        """Begin from another trial's weights, on all workers alike."""
        setup, recipe = self.setup, self.setup.recipe
        batches = setup.feed.batches("train", recipe.batch_size, seed=setup.seed, augmented=False)
        inputs = (in_time(x, setup.task) for x, _ in islice(batches, recipe.limit_batches))
        self.net.eval()
        with self._precision():
            getattr(setup.method, "start", _take_over)(self.net, weights, inputs, setup.config)
        if setup.world > 1:
            for tensor in self.net.state_dict().values():
                dist.broadcast(tensor, 0)

    def _epoch(self, epoch: int, pauses: Pauses, question: Question) -> Epoch:
        setup = self.setup
        # All randomness of an epoch hangs on (seed, epoch, rank), so a restart needs no generator states.
        seed_everything(setup.seed, epoch, setup.rank)
        self.net.train()
        done, seconds = self._train(epoch, pauses, question)
        trained = _clock(setup.device)
        shown = done.tally.over_workers()
        self._broadcast_buffers()
        validation = self.evaluate("validation")
        test = self.evaluate("test") if setup.selection == "best_test" else None
        self._select(epoch, validation, test)
        return Epoch(
            epoch=epoch,
            train_loss=shown.mean_loss,
            train_accuracy=shown.accuracies[0],
            validation_loss=validation.mean_loss if validation.samples else None,
            validation_accuracy=_last_accuracy(validation),
            test_accuracy=test.accuracies[-1] if test else None,
            lr=self.descent.optimizer.param_groups[0]["lr"],
            seconds=seconds,
            evaluation_seconds=_clock(setup.device) - trained,
            extras={key: value / done.steps for key, value in done.extras.items()},
        )

    def _train(self, epoch: int, pauses: Pauses, question: Question) -> tuple[Pass, float]:
        """One pass over the training samples, and its seconds."""
        setup, recipe = self.setup, self.setup.recipe
        done, self.midway = self._begun(), None
        started = _clock(setup.device) - done.seconds
        per_epoch = setup.feed.sizes["train"] // recipe.batch_size
        per_epoch = min(per_epoch, recipe.limit_batches or per_epoch)
        batches = setup.feed.batches(
            "train", recipe.batch_size, epoch=epoch, seed=setup.seed, rank=setup.rank, world=setup.world,
            start=done.steps,
        )  # fmt: skip
        for x, y in islice(batches, per_epoch - done.steps):
            step = epoch * per_epoch + done.steps
            optim.set_lr(self.descent.optimizer, optim.lr_factor(recipe, epoch=epoch, step=step))
            x, target = in_time(x, setup.task), _smoothed(y, setup.task.classes, recipe.label_smoothing)
            with self._precision():
                output = self.descent.step(x, target)
            done.add(output, y)
            is_last = done.steps == per_epoch
            stop = question.now() if is_last else question.after_step()
            pause = stop or (not is_last and pauses.due(step + 1))
            if pause or is_last or len(done.unchecked) == CHECK_EVERY:
                _check(done.unchecked, epoch, step)
                done.unchecked.clear()
            if pause:
                self._save(done, _clock(setup.device) - started, pauses)
            if stop:
                raise Stopped
        return done, _clock(setup.device) - started

    def _begun(self) -> Pass:
        """The pass that this epoch goes on with."""
        if self.midway is None:
            return Pass(Tally.empty(1, self.setup.device))
        return midway.put_back(self.midway, self.net, self.setup.device)

    def _save(self, done: Pass, seconds: float, pauses: Pauses) -> None:
        """Keep the state inside an epoch; all workers are there when it is safe."""
        setup = self.setup
        workers = midway.of_all_workers(done.state(seconds), self.net, setup.device, setup.world)
        if setup.rank == 0 and pauses.save is not None:
            pauses.save(self.state() | {"midway": workers})
        if setup.world > 1:
            dist.barrier()

    def evaluate(self, part: str, confidences: Sequence[float] | None = None) -> Tally:
        """The tally of a whole part, every sample once over all workers; `confidences` as for `evaluation.evaluate`."""
        setup = self.setup
        with self._precision():
            return evaluate(
                self.net, setup.method, setup.config, setup.task, setup.feed, part,
                batch_size=setup.evaluation_batch_size, limit_batches=setup.recipe.limit_batches,
                device=setup.device, rank=setup.rank, world=setup.world, confidences=confidences,
            )  # fmt: skip

    def _select(self, epoch: int | None, validation: Tally, test: Tally | None) -> None:
        """Keep this epoch's weights if the rule prefers them; the earlier epoch wins a tie.

        Without an epoch, those are the weights that there are.
        """
        judged = {"last": None, "best_validation": validation, "best_test": test}[self.setup.selection]
        value = float(epoch or 0) if judged is None else judged.accuracies[-1]
        if self.best is None or value > self.best["value"]:
            weights = {key: tensor.detach().cpu().clone() for key, tensor in self.net.state_dict().items()}
            accuracy = _last_accuracy(validation)
            self.best = {"epoch": epoch, "value": value, "validation_accuracy": accuracy, "weights": weights}

    def use_selected(self) -> None:
        """Put the selected epoch's weights into the network."""
        assert self.best is not None, "no epoch has ended"
        self.net.load_state_dict(self.best["weights"])

    def state(self) -> dict[str, Any]:
        """All that is needed to go on exactly here, behind an epoch, of tensors and plain values."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.descent.optimizer.state_dict(),
            "history": [epoch.model_dump() for epoch in self.history],
            "best": self.best,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned, or from what was saved inside an epoch."""
        self.net.load_state_dict(state["net"])
        self.descent.optimizer.load_state_dict(state["optimizer"])
        self.history = [Epoch.model_validate(epoch) for epoch in state["history"]]
        self.best = state["best"]
        self.midway = state["midway"][self.setup.rank] if "midway" in state else None

    def _broadcast_buffers(self) -> None:
        """Rank 0's running statistics for everybody, so that all workers judge the same network."""
        if self.setup.world > 1:
            for buffer in self.net.buffers():
                dist.broadcast(buffer, 0)

    def _precision(self) -> AbstractContextManager:
        return precision(self.setup.recipe, self.setup.device)


def _last_accuracy(tally: Tally) -> float | None:
    """Accuracy after all time steps; None of no samples."""
    return tally.accuracies[-1] if tally.samples else None


def _take_over(net: nn.Module, weights: Mapping[str, Tensor], batches: Iterator[Tensor], config: MethodConfig) -> None:
    load(net, weights)


def _smoothed(y: Tensor, classes: int, smoothing: float) -> Tensor:
    """Class probabilities instead of classes when labels are smoothed; cross-entropy takes either."""
    if not smoothing:
        return y
    return F.one_hot(y, classes).float() * (1 - smoothing) + smoothing / classes


def _check(losses: list[Tensor], epoch: int, last_step: int) -> None:
    """Raise Diverged, on all workers alike, if any of these losses is not finite."""
    bad = (~torch.isfinite(torch.stack(losses).float())).double()
    if dist.is_initialized():
        dist.all_reduce(bad)
    if bad.any():
        raise Diverged(epoch, last_step - len(losses) + 1 + int(bad.argmax()))


def _clock(device: torch.device) -> float:
    """Seconds of a monotonic clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
