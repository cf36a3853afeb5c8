"""Contact sheets: what is in a dataset, as a network sees it, on one picture."""

from collections.abc import Sequence
from math import ceil, sqrt
from typing import TYPE_CHECKING

import numpy as np

from harness.config import DatasetBlock
from harness.data import loader

if TYPE_CHECKING:
    from PIL import Image

IMAGES, RECORDINGS, TIME_STEPS = 40, 8, 8
"""How many are shown, unless it is said."""
TILE, GAP, TEXT = 96, 6, 14
"""Pixels: small images are enlarged to about this side; between images; height of a line of text."""


def sheet(block: DatasetBlock, split: str, count: int | None, time_steps: int | None) -> "Image.Image":
    """A picture of `count` samples of 'train' or 'test' with their classes: images, or the T frames of recordings.

    Training samples are drawn at random, test samples are spread over all of them. Raises ValueError for more samples
    than there are.
    """
    plain = block.model_copy(update={"validation": 0.0})
    data = loader.open_data(plain, time_steps=time_steps or TIME_STEPS)
    try:
        wanted = count or min(RECORDINGS if data.info.temporal else IMAGES, data.sizes[split])
        if wanted > data.sizes[split]:
            raise ValueError(f"--count {wanted}: '{split}' of {data.info.title} has {data.sizes[split]} samples")
        # Every worker of so many gets samples that are spread over all of them; here is the first worker.
        world = data.sizes[split] // wanted
        x, y = next(data.batches(split, wanted * world, rank=0, world=world, augmented=False))
        labels = [data.info.names[label] if data.info.names else f"class {label}" for label in y.tolist()]
        if data.info.temporal:
            return frames(x.transpose(0, 1).numpy(), labels)
        scale, shift = loader.affine(data.info)
        return images(((x - shift) / scale).round().clamp(0, 255).byte().numpy(), labels)
    finally:
        data.close()


def images(pixels: np.ndarray, labels: Sequence[str]) -> "Image.Image":
    """A grid of images, uint8 (N, C, H, W): grey, RGB, or the mean of any other number of channels."""
    if pixels.shape[1] == 2 or pixels.shape[1] > 3:
        pixels = pixels.mean(axis=1, keepdims=True).astype(np.uint8)
    tiles = [_enlarged(np.broadcast_to(each, (3, *each.shape[1:])).transpose(1, 2, 0)) for each in pixels]  # H W 3
    return _grid([[tile] for tile in tiles], labels, columns=ceil(sqrt(1.6 * len(tiles))))


def frames(counts: np.ndarray, labels: Sequence[str]) -> "Image.Image":
    """A row for each recording of counts (N, T, P, H, W): red where brightness rose, blue where it fell.

    Full colour is the 99th percentile of a recording's counts; of one polarity only, frames are grey.
    """
    rows = []
    for recording in counts:
        happened = recording[recording > 0]
        full = np.percentile(happened, 99) if len(happened) else 1
        shown = np.clip(recording / full, 0, 1)  # T P H W
        off, on = (shown[:, 0], shown[:, 1]) if shown.shape[1] == 2 else (shown[:, 0],) * 2
        ink = np.stack([off, np.maximum(off, on), on], axis=-1)  # taken from white; T H W 3
        rows.append([_enlarged((255 * (1 - each)).astype(np.uint8)) for each in ink])
    return _grid(rows, labels, columns=1)


def _enlarged(pixels: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) whose pixels are squares, so that its longer side has at least about `TILE` pixels."""
    factor = max(1, round(TILE / max(pixels.shape[:2])))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _grid(samples: Sequence[Sequence[np.ndarray]], labels: Sequence[str], columns: int) -> "Image.Image":
    """Samples, each a strip of tiles of one size below its label, row by row."""
    from PIL import Image, ImageDraw

    height, width = samples[0][0].shape[:2]
    cell_width = len(samples[0]) * (width + GAP)
    cell_height = height + TEXT + GAP
    size = (columns * cell_width + GAP, ceil(len(samples) / columns) * cell_height + GAP)
    canvas = Image.new("RGB", size, (225, 225, 225))
    draw = ImageDraw.Draw(canvas)
    for index, (strip, label) in enumerate(zip(samples, labels, strict=True)):
        left, top = GAP + index % columns * cell_width, GAP + index // columns * cell_height
        draw.text((left, top), _fitting(draw, label, cell_width - GAP), fill=(0, 0, 0))
        for step, tile in enumerate(strip):
            canvas.paste(Image.fromarray(tile), (left + step * (width + GAP), top + TEXT))
    return canvas


def _fitting(draw: object, label: str, width: int) -> str:
    """As much of a label as there is room for."""
    while len(label) > 1 and draw.textlength(label) > width:  # type: ignore[attr-defined]
        label = f"{label[:-2]}…" if label.endswith("…") else f"{label[:-1]}…"
    return label
