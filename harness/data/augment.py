"""Random changes to training samples, in batches on the device; what is drawn hangs on seed and epoch alone."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.config import Augment
from harness.data import crops
from harness.data.frames import DRAWS

STREAM, DROPS_STREAM, CROPS_STREAM = 1, 3, 4
"""What tells these random streams from the loader's."""


class Moves(NamedTuple):
    """What happens to each of N samples, all int64 (N, 1) in pixels; on the samples' device."""

    top: Tensor
    """Rows to crop off the padded image."""
    left: Tensor
    """Columns to crop off the padded image."""
    flip: Tensor
    """1 to mirror left and right."""
    down: Tensor
    """Rows to shift down cyclically."""
    right: Tensor
    """Columns to shift right cyclically."""
    row: Tensor
    """Row at the centre of the square that is cut out."""
    column: Tensor
    """Column at its centre."""


def draw(num_samples: int, augment: Augment, shape: tuple[int, ...], seed: int, epoch: int) -> np.ndarray | None:
    """What happens to each sample of an epoch, (N, 7) in the order of `Moves`; None where nothing does."""
    if not (augment.crop_padding or augment.flip or augment.roll or augment.cutout):
        return None
    random = np.random.default_rng([seed, epoch, STREAM])
    height, width = shape[-2:]
    columns = [
        random.integers(0, 2 * augment.crop_padding + 1, (num_samples, 2)),
        random.integers(0, 2, (num_samples, 1)) if augment.flip else np.zeros((num_samples, 1), dtype=np.int64),
        random.integers(-augment.roll, augment.roll + 1, (num_samples, 2)),
        random.integers(0, (height, width), (num_samples, 2)),
    ]
    return np.concatenate(columns, axis=1)


FLIP, HOLE = 2, slice(5, 7)
"""Columns of what is drawn: `Moves.flip`; `Moves.row` and `Moves.column`."""
IMAGE = np.dtype([("crop", "<f4", crops.DRAWS), ("moves", "<i4", len(Moves._fields))])
"""What is drawn for a whole image: for `crops.random`, and `Moves`."""


def draw_images(
    num_samples: int, augment: Augment, moves: np.ndarray | None, seed: int, epoch: int
) -> np.ndarray | None:
    """What happens to each whole image of an epoch, (N,) of type `IMAGE`; None where nothing does.

    `moves` are what `draw` gives for it.
    """
    if moves is None and augment.random_resized_crop is None:
        return None
    drawn = np.zeros(num_samples, IMAGE)
    if augment.random_resized_crop is not None:
        random = np.random.default_rng([seed, epoch, CROPS_STREAM])
        drawn["crop"] = random.random((num_samples, crops.DRAWS), dtype=np.float32)
    if moves is not None:
        drawn["moves"] = moves
    return drawn


def drops(num_samples: int, augment: Augment, seed: int, epoch: int) -> np.ndarray | None:
    """How events are left out of each recording of an epoch, uint64 (N, 2); None where none are.

    A key, from which one of `DRAWS` values is made for each event, and the first of these that is kept.
    """
    if not augment.event_drop:
        return None
    random = np.random.default_rng([seed, epoch, DROPS_STREAM])
    keys = random.integers(0, 1 << 64, num_samples, dtype=np.uint64)
    fractions = random.random(num_samples) * augment.event_drop
    return np.stack([keys, (fractions * DRAWS).astype(np.uint64)], axis=1)


def moves(drawn: Tensor) -> Moves:
    """The columns of `draw`, with their names."""
    return Moves(*drawn.split(1, dim=1))


def move(x: Tensor, to: Moves, padding: int) -> Tensor:
    """Crop each image (B, C, H, W) out of itself padded by zeros, mirror some, shift them cyclically.

    One gather for the whole batch; all channels of a sample, and so all its frames, move alike.
    """
    height, width = x.shape[-2:]
    rows = to.top + (torch.arange(height, device=x.device) - to.down) % height  # B H
    columns = (torch.arange(width, device=x.device) - to.right) % width
    columns = to.left + torch.where(to.flip > 0, width - 1 - columns, columns)  # B W
    padded = pad(x, (padding,) * 4)
    pixels = rows[:, :, None] * padded.shape[-1] + columns[:, None, :]  # B H W
    pixels = pixels.flatten(1)[:, None].expand(-1, x.shape[1], -1)  # B C HW
    return padded.flatten(2).gather(2, pixels).view_as(x)


def cut_out(x: Tensor, to: Moves, side: int) -> Tensor:
    """Set a square of `side` pixels of each sample of x (…, B, C, H, W) to zero, in place, and return x.

    The square may reach over the border, as in arXiv:1708.04552.
    """
    height, width = x.shape[-2:]
    rows = torch.arange(height, device=x.device) - to.row + side // 2  # B H
    columns = torch.arange(width, device=x.device) - to.column + side // 2  # B W
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]  # B H W
    return x.masked_fill_(inside[:, None], 0)
