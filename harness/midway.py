"""An epoch on its way: what one worker has seen of it, and all that is needed to go on from there to the bit."""

import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.contract import StepOutput
from harness.metrics import Tally


@dataclass
class Pass:
    """One worker's pass over the training samples, as far as it has come."""

    tally: Tally
    steps: int = 0
    extras: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Sums over steps of what the method reports."""
    seconds: float = 0.0
    """Training time of earlier processes."""
    unchecked: list[Tensor] = field(default_factory=list)
    """Losses that nobody has looked at."""

    def add(self, output: StepOutput, y: Tensor) -> None:
        """Count a step."""
        self.tally = self.tally.merge(Tally.of(output.logits[None], y))
        self.steps += 1
        self.unchecked.append(output.loss)
        for key, value in output.extras.items():
            self.extras[key] += value

    def state(self, seconds: float) -> dict[str, Any]:
        """The same as plain values; all losses have been looked at. `seconds`: training time until now."""
        tally = {name: value.cpu() for name, value in vars(self.tally).items() if value is not None}
        return {"tally": tally, "steps": self.steps, "extras": dict(self.extras), "seconds": seconds}

    @classmethod
    def of(cls, state: Mapping[str, Any], device: torch.device) -> "Pass":
        """The pass that `state` was made of."""
        tally = Tally(**{name: value.to(device) for name, value in state["tally"].items()})
        return cls(tally, state["steps"], defaultdict(float, state["extras"]), state["seconds"])


def of_all_workers(pass_: dict[str, Any], net: nn.Module, device: torch.device, world: int) -> list[dict[str, Any]]:
    """Each worker's own state: its pass, its generators, and buffers that are others than rank 0's."""
    own = {"pass": pass_, "generators": generators(device), "buffers": _buffers(net)}
    if world == 1:
        return [own | {"buffers": {}}]
    found: list[Any] = [None] * world
    dist.all_gather_object(found, own)
    first = found[0]["buffers"]
    for state in found:
        state["buffers"] = {name: b for name, b in state["buffers"].items() if not torch.equal(b, first[name])}
    return found


def _buffers(net: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.detach().cpu().clone() for name, buffer in net.named_buffers()}


@torch.no_grad()
def put_back(own: Mapping[str, Any], net: nn.Module, device: torch.device) -> Pass:
    """Take up a worker's own state, in a network that has rank 0's buffers; returns its pass."""
    for name, buffer in own["buffers"].items():
        net.get_buffer(name).copy_(buffer)
    set_generators(own["generators"], device)
    return Pass.of(own["pass"], device)


def generators(device: torch.device) -> dict[str, Any]:
    """The states of Python's, numpy's and torch's global generators, as tensors and plain values."""
    name, keys, *rest = np.random.get_state()
    found = {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def set_generators(states: Mapping[str, Any], device: torch.device) -> None:
    """Take up what `generators` returned."""
    version, words, following = states["python"]
    random.setstate((version, tuple(words), following))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def seed_everything(*parts: int) -> None:
    """Seed Python's, numpy's and torch's global generators by all of `parts` together."""
    seeds = np.random.SeedSequence([part & 0xFFFFFFFF for part in parts]).generate_state(2)
    random.seed(int(seeds[0]))
    np.random.seed(int(seeds[0]))
    torch.manual_seed(int(seeds[1]))
