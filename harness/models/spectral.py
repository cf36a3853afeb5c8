"""Weights whose size as a linear map is held at one or below, so that a feedback loop settles.

    effective weight = clamp(g, -1, 1) * W / sigma(W),    g learned, at first sigma(W)

sigma is the largest singular value of a linear map: of W as a matrix (dim 0, rest), as in Xiao et al., NeurIPS 2021
(arXiv:2109.14247), or of the convolution itself on images of the size at hand. The matrix says too little of a
convolution: a pixel enters kernel_size^2 outputs, so its norm can be that many times as large.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROWTH = 1e-4
"""An estimate of sigma that grows by less, relatively, in one iteration counts as found."""
MOST_ITERATIONS = 500


@dataclass(frozen=True)
class LinearMap:
    """What a weight does to an activity, and the adjoint of that."""

    apply: Callable[[Tensor, Tensor], Tensor]
    """(activity, weight) -> activity"""
    adjoint: Callable[[Tensor, Tensor], Tensor]
    inputs: torch.Size
    """Shape of an activity before, without the batch."""
    outputs: torch.Size


def matrix(rows: int, columns: int) -> LinearMap:
    """A fully connected layer; for weights of more dimensions, as a matrix (dim 0, rest)."""
    return LinearMap(
        lambda x, weight: F.linear(x, weight.flatten(1)),
        lambda y, weight: y @ weight.flatten(1),
        torch.Size((columns,)), torch.Size((rows,)),
    )  # fmt: skip


def convolution(weight: Tensor, inputs: torch.Size) -> LinearMap:
    """A convolution of stride 1 that keeps the image's size; weight (D, C, k, k), odd k; inputs (C, H, W)."""
    padding = weight.shape[-1] // 2
    return LinearMap(
        lambda x, weight: F.conv2d(x, weight, padding=padding),
        lambda y, weight: F.conv_transpose2d(y, weight, padding=padding),
        inputs, torch.Size((len(weight), *inputs[1:])),
    )  # fmt: skip


def transposed_convolution(weight: Tensor, inputs: torch.Size, outputs: torch.Size, stride: int) -> LinearMap:
    """From images (C, H, W) to images (D, H', W') about stride times as high and wide; weight (C, D, k, k), odd k."""
    padding = weight.shape[-1] // 2
    extra = [after - (before - 1) * stride - 1 for before, after in zip(inputs[1:], outputs[1:], strict=True)]
    return LinearMap(
        lambda x, weight: F.conv_transpose2d(x, weight, stride=stride, padding=padding, output_padding=extra),
        lambda y, weight: F.conv2d(y, weight, stride=stride, padding=padding),
        inputs, outputs,
    )  # fmt: skip


class RestrictedWeight(nn.Module):
    """The effective weight. The power iteration behind sigma moves once a call in training, and not in evaluation.

    `converged`: at every move it iterates until sigma is found, which takes few iterations from where the last ended.
    `moves_in_evaluation`: as in the released code, whose evaluation therefore cannot be repeated.
    """

    left: Tensor
    right: Tensor

    def __init__(
        self, weight: Tensor, measured: LinearMap, *, converged: bool, moves_in_evaluation: bool = False
    ) -> None:
        super().__init__()
        self.measured, self.converged, self.moves_in_evaluation = measured, converged, moves_in_evaluation
        self.weight = nn.Parameter(weight)
        self.register_buffer("left", _unit(weight.new_empty(1, *measured.outputs).normal_()))
        self.register_buffer("right", _unit(weight.new_empty(1, *measured.inputs).normal_()))
        self._iterate(MOST_ITERATIONS if converged else 10)
        self.gain = nn.Parameter(self._sigma().detach())

    def forward(self) -> Tensor:
        with torch.autocast(self.weight.device.type, enabled=False):
            if self.training or self.moves_in_evaluation:
                self._iterate(MOST_ITERATIONS if self.converged else 1)
            return self.gain.clamp(-1, 1) * self.weight / self._sigma()

    def _sigma(self) -> Tensor:
        # Copies, since the next call overwrites the vectors before this one's gradient may have been taken.
        return (self.left.clone() * self.measured.apply(self.right.clone(), self.weight)).sum()

    @torch.no_grad()
    def _iterate(self, most: int) -> None:
        sigma = torch.zeros(())
        for iteration in range(most):
            self.right.copy_(_unit(self.measured.adjoint(self.left, self.weight)))
            image = self.measured.apply(self.right, self.weight)
            before, sigma = sigma, image.norm()
            self.left.copy_(_unit(image))
            if self.converged and iteration and sigma <= before * (1 + GROWTH):
                return


class FreeWeight(nn.Module):
    """A weight that nothing restricts."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self) -> Tensor:
        return self.weight


def _unit(vector: Tensor) -> Tensor:
    return F.normalize(vector.flatten(1)).view_as(vector)
