"""What residual networks have in common: stages of blocks, and the convolutions of a block; not how they are joined."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, PositiveInt

from harness.models.layers import Conv2d

Stages = Annotated[tuple[tuple[PositiveInt, PositiveInt], ...], Field(min_length=1)]
"""Number of blocks and channels of each stage."""

EXPANSION = 4
"""A bottleneck puts out this many times the channels of its stage."""


def doubling(*num_blocks: int, width: int = 64) -> Stages:
    """Stages of `width` channels, then twice as many, and so on."""
    return tuple((blocks, width * 2**stage) for stage, blocks in enumerate(num_blocks))


def widths_and_strides(stages: Stages) -> Iterator[tuple[int, int]]:
    """Channels and stride of every block: the first block of every stage but the first halves the map."""
    for stage, (num_blocks, width) in enumerate(stages):
        for block in range(num_blocks):
            yield width, 2 if stage > 0 and block == 0 else 1


def convolutions(inputs: int, width: int, stride: int, *, bottleneck: bool, bias: bool) -> list[Conv2d]:
    """The convolutions of a block: two of 3x3, or a bottleneck's 1x1, 3x3 and 1x1. The first 3x3 has the stride."""
    if not bottleneck:
        first = Conv2d(inputs, width, 3, stride=stride, padding=1, bias=bias)
        return [first, Conv2d(width, width, 3, padding=1, bias=bias)]
    return [
        Conv2d(inputs, width, 1, bias=bias),
        Conv2d(width, width, 3, stride=stride, padding=1, bias=bias),
        Conv2d(width, EXPANSION * width, 1, bias=bias),
    ]


def projection(inputs: int, outputs: int, stride: int, *, bias: bool) -> Conv2d | None:
    """The 1x1 convolution of a shortcut whose shape changes; None where the shortcut is the identity."""
    return Conv2d(inputs, outputs, 1, stride=stride, bias=bias) if stride != 1 or inputs != outputs else None
