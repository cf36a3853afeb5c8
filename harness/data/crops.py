"""Which part of a whole image is looked at: at random in training, the middle in evaluation.

All is arithmetic on what was drawn, so that whoever reads an image, in whichever order, takes the same part of it.
"""

import numpy as np

TRIES = 10
DRAWS = 2 * TRIES + 2
"""Numbers in [0, 1) that a random part takes: for each try an area and a shape, then a row and a column."""
LOG_RATIOS = (np.log(3 / 4), np.log(4 / 3))
"""Logarithms of the narrowest and the widest shape, width by height."""


def random(sizes: np.ndarray, drawn: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Parts of images, int64 (B, 4) as top, left, height and width.

    `sizes` (B, 2) are heights and widths; `drawn` (B, DRAWS) are uniform in [0, 1); `scale` bounds the part of the
    area. The first of ten tries that lies inside, or else the middle with a shape as near as possible, as torchvision's
    RandomResizedCrop takes it.
    """
    sizes, drawn = sizes.astype(np.float64), drawn.astype(np.float64)
    low, high = LOG_RATIOS
    areas = sizes.prod(1)[:, None] * (scale[0] + (scale[1] - scale[0]) * drawn[:, :TRIES])  # B tries
    ratios = np.exp(low + (high - low) * drawn[:, TRIES : 2 * TRIES])
    tries = np.rint(np.sqrt(np.stack([areas / ratios, areas * ratios], axis=-1)))  # B tries 2
    inside = ((tries > 0) & (tries <= sizes[:, None])).all(-1)
    found = inside.any(1)
    parts = tries[np.arange(len(tries)), inside.argmax(1)]  # B 2
    places = np.floor(drawn[:, 2 * TRIES :] * (sizes - parts + 1))
    ratio, (narrow, wide) = sizes[:, 1] / sizes[:, 0], np.exp(LOG_RATIOS)
    nearest = np.stack([
        np.where(ratio < narrow, np.rint(sizes[:, 1] / narrow), sizes[:, 0]),
        np.where(ratio > wide, np.rint(sizes[:, 0] * wide), sizes[:, 1]),
    ], axis=1)  # fmt: skip
    parts = np.where(found[:, None], parts, nearest)
    places = np.where(found[:, None], places, (sizes - nearest) // 2)
    return np.concatenate([places, parts], axis=1).astype(np.int64)


def middle(sizes: np.ndarray, part: float) -> np.ndarray:
    """Squares in the middle, int64 (B, 4) as `random`'s; their side is that `part` of the shorter side."""
    sides = np.maximum((sizes.min(1) * part).astype(np.int64), 1)[:, None]
    return np.concatenate([(sizes.astype(np.int64) - sides) // 2, sides, sides], axis=1)
