"""Networks with one hidden spiking layer that feeds back to itself, as trained by implicit differentiation.

    input -> F_x: linear or 5x5/2 convolution -> batch norm -> dropout -> current of layer 1
    spikes of layer i -> F_i: the same kind -> batch norm -> dropout -> current of layer i + 1   (`feedback_deep.py`)
    spikes of the last layer -> F_fb: no bias, spectral norm at most 1 -> dropout -> current of layer 1, a step later
    rates of the last layer -> linear readout

The names are the paper's: '400 (F400)' is fully connected, '64C5s (F64C5)' convolutional with stride 2. The neurons are
the method's. Source: Xiao et al., NeurIPS 2021 (arXiv:2109.14247). Departure: the power iteration behind the spectral
norm moves in training only, so that evaluation can be repeated.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Literal, Self

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn

from harness.contract import Task
from harness.models import spectral
from harness.models.currents import Currents, Link, Stage, masked, unit_rows
from harness.models.layers import Conv2d, Linear
from harness.models.spectral import FreeWeight, LinearMap, RestrictedWeight

FEEDBACK = True


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    widths: tuple[PositiveInt, ...] = Field((400,), min_length=1)
    """Neurons of each layer, or channels where kernel_size is given."""
    kernel_size: PositiveInt | None = None
    """Of every convolution, an odd number; None for fully connected."""
    strides: tuple[PositiveInt, ...] | None = None
    """Of the convolution into each layer; None: 2, then 1. The feedback undoes those after the first."""
    padding: int | None = Field(None, ge=0)
    """Of F_x; None: kernel_size // 2. The released N-MNIST script has 1, the paper's counts of neurons imply 2."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of each current that is dropped, the same entries at all time steps."""
    restriction: Literal["matrix", "operator", "none"] = "matrix"
    """What is at most 1: the norm of F_fb's weight as a matrix (paper), that of the map F_fb itself, or nothing."""
    power_iteration: Literal["training", "always"] = "training"
    """When the estimate of that norm moves. 'always', as in the released code: no two evaluations are alike."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.kernel_size is None and (self.strides is not None or self.padding is not None):
            raise ValueError("strides and padding belong to convolutions: give a kernel_size")
        if self.kernel_size is not None and self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} is even; feedback keeps the image's size with odd ones")
        if self.strides is not None and len(self.strides) != len(self.widths):
            raise ValueError(f"{len(self.strides)} strides for {len(self.widths)} layers")
        if self.restriction == "none" and self.power_iteration == "always":
            raise ValueError("power_iteration belongs to a restriction; there is none")
        return self


NETWORKS = {"400 (F400)": Config(), "64C5s (F64C5)": Config(widths=(64,), kernel_size=5)}
SMALL = {"widths": (12,)}


def build(config: Config, task: Task) -> "FeedbackNet":
    """The network, without neurons."""
    return FeedbackNet(config, task)


class FeedbackNet(nn.Module):
    """The parts of the network; a method puts neurons between `currents` and `score`."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        self.dropout = config.dropout
        stages = _dense(config, task) if config.kernel_size is None else _convolutional(config, task)
        self.stages = nn.ModuleList(stages)
        self.feedback_map, weight = _feedback(stages)
        self.feedback: RestrictedWeight | FreeWeight
        if config.restriction == "none":
            self.feedback = FreeWeight(weight)
        else:
            operator = config.restriction == "operator"
            measured = self.feedback_map if operator else spectral.matrix(len(weight), weight[0].numel())
            always = config.power_iteration == "always"
            self.feedback = RestrictedWeight(weight, measured, converged=operator, moves_in_evaluation=always)
        self.readout = Linear(stages[-1].hidden.numel(), task.classes)

    @property
    def hidden(self) -> list[torch.Size]:
        """The shape of each layer, without the batch."""
        return [stage.hidden for stage in self.stages]  # type: ignore[misc]

    @property
    def takes_batch_statistics(self) -> bool:
        """Whether batch norm is in training."""
        return self.stages[0].norm.training  # type: ignore[union-attr]

    @property
    def over_workers(self) -> bool:
        """Whether batch norm, in training, makes one batch of all workers' samples."""
        return bool(self.takes_batch_statistics and self.stages[0].norm.synced)  # type: ignore[union-attr]

    def currents(
        self, mean: Float[Tensor, "B C H W"], frames: Sequence[Tensor] | Tensor, *, reference: Tensor | None = None
    ) -> Currents:
        """The currents of one batch, given the input's mean over time and its frames, each (B, C, H, W).

        In training the frames are normalised with the statistics of `reference`, an input too; None: of the mean.
        """
        masks = [self.mask(len(mean), hidden) for hidden in self.hidden]
        feedback_mask = self.mask(len(mean), self.hidden[0])
        first, *others = (Link(stage, mask) for stage, mask in zip(self.stages, masks, strict=True))  # type: ignore[arg-type]
        before_norm = first.stage.before_norm(mean)
        current = first.normalise(before_norm)
        static = isinstance(frames, Tensor) and frames.stride(0) == 0

        @torch.no_grad()
        def steps() -> Iterator[Tensor]:
            if static:
                yield from (current for _ in frames)
                return
            like = before_norm if reference is None else first.stage.before_norm(reference)
            yield from map(first.frozen(first.stage.statistics(like)), frames)

        weight = self.feedback()
        return Currents(
            current, steps, lambda a: masked(self.feedback_map.apply(a, weight), feedback_mask), tuple(others)
        )  # fmt: skip

    def mask(self, batch_size: int, hidden: torch.Size) -> Tensor | None:
        """A new dropout mask for the current of a layer, or None in evaluation."""
        if not self.training or self.dropout == 0:
            return None
        keep = 1 - self.dropout
        mask = self.readout.weight.new_empty(batch_size, *hidden).bernoulli_(keep).div_(keep)
        return mask.contiguous(memory_format=torch.channels_last) if mask.dim() == 4 else mask

    def score(self, rates: Float[Tensor, "B ..."]) -> Float[Tensor, "B K"]:
        """The readout."""
        return self.readout(rates.flatten(1)[None])[0]


def _dense(config: Config, task: Task) -> list[Stage]:
    sizes = [prod(task.shape), *config.widths]
    return [Stage(Linear(before, after), torch.Size((after,))) for before, after in pairwise(sizes)]


def _convolutional(config: Config, task: Task) -> list[Stage]:
    kernel, (channels, *pixels) = config.kernel_size or 1, task.shape
    strides = config.strides or (2,) + (1,) * (len(config.widths) - 1)
    stages: list[Stage] = []
    for width, stride in zip(config.widths, strides, strict=True):
        first = config.padding if config.padding is not None and not stages else None
        padding = kernel // 2 if first is None else first
        pixels = [(size + 2 * padding - kernel) // stride + 1 for size in pixels]
        if min(pixels) < 1:
            raise ValueError(f"{task.network}: nothing is left of images of {task.shape[1:]} pixels")
        convolution = Conv2d(channels, width, kernel, stride=stride, padding=padding)
        stages.append(Stage(convolution, torch.Size((width, *pixels))))
        channels = width
    return stages


def _feedback(stages: list[Stage]) -> tuple[LinearMap, Tensor]:
    """The map from the last layer to the first, and its weight, drawn."""
    inputs, outputs = stages[-1].hidden, stages[0].hidden
    convolutions = [stage.affine for stage in stages if isinstance(stage.affine, Conv2d)]
    if not convolutions:
        return spectral.matrix(outputs[0], inputs[0]), unit_rows(torch.empty(outputs[0], inputs[0]))
    kernel = convolutions[0].kernel_size
    if len(stages) == 1:
        weight = unit_rows(_convolution_weight(outputs[0], inputs[0], *kernel))
        return spectral.convolution(weight, inputs), weight
    weight = unit_rows(_convolution_weight(inputs[0], outputs[0], *kernel), dim=1)
    stride = prod(convolution.stride[0] for convolution in convolutions[1:])
    return spectral.transposed_convolution(weight, inputs, outputs, stride), weight


def _convolution_weight(*shape: int) -> Tensor:
    return torch.empty(shape).contiguous(memory_format=torch.channels_last)
