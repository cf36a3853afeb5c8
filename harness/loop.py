"""The training loop: plain torch, one process among equals. Knows no Ray, no MLflow and no plug-in by name."""

import logging
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from harness import optim
from harness.config import Selection, Train
from harness.contract import Method, MethodConfig, Task
from harness.metrics import Tally
from harness.models.transfer import load
from harness.record import Epoch

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
CHECK_EVERY = 100
"""Batches between two looks at whether the loss is still finite; a look waits for the device."""


class Feed(Protocol):
    """Where batches come from; `harness.data.loader.Data` is one."""

    sizes: Mapping[str, int]

    def batches(
        self, part: str, batch_size: int, *, epoch: int = 0, seed: int = 0, rank: int = 0, world: int = 1,
        augmented: bool = True,
    ) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
        """This worker's share of one pass: x of shape (B, C, H, W), or frames (T, B, C, H, W), and y (B,)."""


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


class Training:
    """One network on its way through the epochs; `state` and `restore` carry it over a crash, to the bit."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        torch.use_deterministic_algorithms(setup.recipe.deterministic, warn_only=True)
        seed_everything(setup.seed)
        self.net = setup.method.build(setup.config, setup.task).to(setup.device)
        if setup.recipe.compile:
            self._compile_loops()
        if setup.weights is not None:
            self._start(setup.weights)
        groups = getattr(setup.method, "param_groups", _all_parameters)(self.net, setup.config)
        self.optimizer = optim.optimizer(groups, setup.recipe)
        # A method whose gradients do not come from one backward pass through forward() has them averaged in update().
        self.explicit = getattr(setup.method, "REDUCE", "ddp") == "explicit"
        overlapped = setup.world > 1 and not self.explicit
        self.trained: nn.Module = DistributedDataParallel(self.net) if overlapped else self.net
        self.history: list[Epoch] = []
        self.best: dict[str, Any] | None = None

    def epochs(self) -> Iterator[Epoch]:
        """Train the epochs that are left, yielding what each one showed; of none, judge the weights as they are.

        Raises Diverged when the loss is no longer finite.
        """
        if self.setup.recipe.epochs == 0:
            self._select(None, self.evaluate("validation"), None)
        for epoch in range(len(self.history), self.setup.recipe.epochs):
            self.history.append(self._epoch(epoch))
            yield self.history[-1]

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
        batches = setup.feed.batches("train", recipe.batch_size // setup.world, seed=setup.seed, augmented=False)
        inputs = (in_time(x, setup.task) for x, _ in islice(batches, recipe.limit_batches))
        self.net.eval()
        with self._precision():
            getattr(setup.method, "start", _take_over)(self.net, weights, inputs, setup.config)
        if setup.world > 1:
            for tensor in self.net.state_dict().values():
                dist.broadcast(tensor, 0)

    def _epoch(self, epoch: int) -> Epoch:
        setup = self.setup
        # All randomness of an epoch hangs on (seed, epoch, rank), so a restart needs no generator states.
        seed_everything(setup.seed, epoch, setup.rank)
        self.net.train()
        started = _clock(setup.device)
        tally, extras, steps = self._train(epoch)
        trained = _clock(setup.device)
        shown = tally.over_workers()
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
            lr=self.optimizer.param_groups[0]["lr"],
            seconds=trained - started,
            evaluation_seconds=_clock(setup.device) - trained,
            extras={key: value / steps for key, value in extras.items()},
        )

    def _train(self, epoch: int) -> tuple[Tally, dict[str, float], int]:
        """One pass over the training samples: what was seen, the sums of the method's extras, the number of steps."""
        setup, recipe = self.setup, self.setup.recipe
        per_epoch = setup.feed.sizes["train"] // recipe.batch_size
        per_epoch = min(per_epoch, recipe.limit_batches or per_epoch)
        batches = setup.feed.batches(
            "train", recipe.batch_size, epoch=epoch, seed=setup.seed, rank=setup.rank, world=setup.world
        )
        tally = Tally.empty(1, setup.device)
        extras: dict[str, float] = defaultdict(float)
        losses: list[Tensor] = []
        for index, (x, y) in enumerate(islice(batches, per_epoch)):
            step = epoch * per_epoch + index
            optim.set_lr(self.optimizer, optim.lr_factor(recipe, epoch=epoch, step=step))
            x, target = in_time(x, setup.task), _smoothed(y, setup.task.classes, recipe.label_smoothing)
            with self._precision():
                output = setup.method.train_step(self.trained, x, target, setup.config, self._update)
            tally = tally.merge(Tally.of(output.logits[None], y))
            losses.append(output.loss)
            for key, value in output.extras.items():
                extras[key] += value
            if len(losses) == CHECK_EVERY or index + 1 == per_epoch:
                _check(losses, epoch, step)
                losses.clear()
        return tally, extras, per_epoch

    def _update(self) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.explicit and self.setup.world > 1:
            average_gradients(parameters, self.setup.world)
        if self.setup.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.setup.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def evaluate(self, part: str) -> Tally:
        """The tally of a whole part, every sample once over all workers."""
        setup = self.setup
        with self._precision():
            return evaluate(
                self.net, setup.method, setup.config, setup.task, setup.feed, part,
                batch_size=setup.evaluation_batch_size, limit_batches=setup.recipe.limit_batches,
                device=setup.device, rank=setup.rank, world=setup.world,
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
        """All that is needed to go on exactly here, of tensors and plain values."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": [epoch.model_dump() for epoch in self.history],
            "best": self.best,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = [Epoch.model_validate(epoch) for epoch in state["history"]]
        self.best = state["best"]

    def _broadcast_buffers(self) -> None:
        """Rank 0's running statistics for everybody, so that all workers judge the same network."""
        if self.setup.world > 1:
            for buffer in self.net.buffers():
                dist.broadcast(buffer, 0)

    def _precision(self) -> AbstractContextManager:
        return precision(self.setup.recipe, self.setup.device)


@torch.no_grad()
def evaluate(
    net: nn.Module, method: Method, config: MethodConfig, task: Task, feed: Feed, part: str, *,
    batch_size: int, limit_batches: int | None = None, device: torch.device, rank: int = 0, world: int = 1,
) -> Tally:  # fmt: skip
    """Accuracy after each time step and loss over one part, summed over all workers."""
    net.eval()
    tally = None
    for x, y in islice(feed.batches(part, batch_size, rank=rank, world=world), limit_batches):
        batch = Tally.of(method.predict(net, in_time(x, task), config), y)
        tally = tally.merge(batch) if tally else batch
    time_steps = task.time_steps if getattr(method, "SPIKING", True) else 1
    return (tally or Tally.empty(time_steps, device)).over_workers()


def in_time(x: Tensor, task: Task) -> Tensor:
    """Input of shape (T, B, C, H, W): frames of events as they are, a still image as a view that repeats it T times."""
    return x if task.temporal else x.unsqueeze(0).expand(task.time_steps, *x.shape)


def precision(recipe: Train, device: torch.device) -> AbstractContextManager:
    """The context in which the recipe's precision holds."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16")


def average_gradients(parameters: list[nn.Parameter], world: int) -> None:
    """Replace every gradient by its mean over the workers, in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def seed_everything(*parts: int) -> None:
    """Seed Python's, numpy's and torch's global generators by all of `parts` together."""
    seeds = np.random.SeedSequence([part & 0xFFFFFFFF for part in parts]).generate_state(2)
    random.seed(int(seeds[0]))
    np.random.seed(int(seeds[0]))
    torch.manual_seed(int(seeds[1]))


def _last_accuracy(tally: Tally) -> float | None:
    """Accuracy after all time steps; None of no samples."""
    return tally.accuracies[-1] if tally.samples else None


def _take_over(net: nn.Module, weights: Mapping[str, Tensor], batches: Iterator[Tensor], config: MethodConfig) -> None:
    load(net, weights)


def _all_parameters(net: nn.Module, config: MethodConfig) -> list[nn.Parameter]:
    return [p for p in net.parameters() if p.requires_grad]


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
