"""From a batch to an update of the weights: in parts where memory wants it, averaged over workers, clipped."""

from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from harness import memory, optim
from harness.config import Train
from harness.contract import Method, MethodConfig, StepOutput


class Descent:
    """The optimizer of one network, and how its gradients come about."""

    def __init__(
        self, net: nn.Module, method: Method, config: MethodConfig, recipe: Train, *, world: int = 1, parts: int = 1
    ) -> None:
        """`parts`: how many a worker's share of a batch is computed in. Raises ValueError if they cannot be equal."""
        self.net, self.method, self.config, self.recipe = net, method, config, recipe
        self.world, self.parts = world, parts
        if parts > 1 and recipe.batch_size % (world * parts):
            raise ValueError(
                f"train.micro_batches: {parts} does not divide a worker's share of a batch, "
                f"{recipe.batch_size} samples over {world} workers"
            )
        groups = getattr(method, "param_groups", _all_parameters)(net, config)
        self.optimizer = optim.optimizer(groups, recipe)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        # A method whose gradients do not come from one backward pass through forward() has them averaged in update().
        self.explicit = getattr(method, "REDUCE", "ddp") == "explicit"
        self.trained: nn.Module = net if self.explicit or world == 1 else DistributedDataParallel(net)

    @property
    def settles(self) -> bool:
        """Whether gradients are summed over workers in an order that hangs on the steps before: see `settle`."""
        return self.world > 2 and isinstance(self.trained, DistributedDataParallel)

    def settle(self, x: Tensor, y: Tensor) -> None:
        """Take a step that changes nothing, on a few samples, before the first that counts.

        After its first step DistributedDataParallel arranges gradients anew, and where a gradient lies decides in which
        order more than two workers' are added. A process that goes on from a checkpoint would round otherwise there.
        """
        before = [buffer.clone() for buffer in self.net.buffers()]
        self.method.train_step(self.trained, x, y, self.config, lambda: None)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in zip(self.net.buffers(), before, strict=True):
                buffer.copy_(value)

    def step(self, x: Tensor, y: Tensor) -> StepOutput:
        """Learn from this worker's share of a batch: x (T, B, C, H, W), y classes or their probabilities.

        Raises OutOfMemory when memory does not suffice for it.
        """
        try:
            if self.parts == 1:
                return self.method.train_step(self.trained, x, y, self.config, self._update)
            return self._in_parts(x, y)
        except Exception as error:
            if not memory.is_lacking(error):
                raise
            raise memory.OutOfMemory(f"in a training step of {len(y) // self.parts} samples: {error}") from None

    def _in_parts(self, x: Tensor, y: Tensor) -> StepOutput:
        """The same with the gradients of equal parts added up, and one update behind the last."""
        outputs: list[StepOutput] = []
        for part, (some, labels) in enumerate(zip(x.chunk(self.parts, 1), y.chunk(self.parts), strict=True), 1):
            calls: list[None] = []
            update = self._update if part == self.parts else lambda: calls.append(None)  # noqa: B023 called at once
            # Gradients are averaged over workers once, when the last part's are there too.
            apart = isinstance(self.trained, DistributedDataParallel) and part < self.parts
            with self.trained.no_sync() if apart else nullcontext():  # type: ignore[operator]
                outputs.append(self.method.train_step(self.trained, some, labels, self.config, update))
            if part < self.parts and len(calls) != 1:
                raise ValueError(
                    f"the method called `update` {len(calls)} times in a step; train.micro_batches needs one call "
                    f"(see `updates_once` in harness.contract.Method)"
                )
        return StepOutput(
            torch.stack([output.loss for output in outputs]).mean(),
            torch.cat([output.logits for output in outputs]),
            {key: sum(output.extras[key] for output in outputs) / self.parts for key in outputs[0].extras},
        )

    def _update(self) -> None:
        if self.explicit and self.world > 1:
            average_gradients(self.parameters, self.world)
        if self.parts > 1:
            for p in self.parameters:
                if p.grad is not None:
                    p.grad.div_(self.parts)  # the sum of the parts' means
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def average_gradients(parameters: list[nn.Parameter], world: int) -> None:
    """Replace every gradient by its mean over the workers, in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _all_parameters(net: nn.Module, config: MethodConfig) -> list[nn.Parameter]:
    return [p for p in net.parameters() if p.requires_grad]
