"""Whole images as a .beton file keeps them."""

from collections.abc import Mapping

import numpy as np

from harness import beton
from harness.config import Store


def encoded(pixels: np.ndarray, store: Store, index: int) -> tuple[np.ndarray, Mapping[str, int]]:
    """An image (H, W, 3) as it is kept, and its row of the file."""
    import cv2

    height, width = pixels.shape[:2]
    longest = max(height, width)
    if store.max_side is not None and longest > store.max_side:
        width, height = (max(1, side * store.max_side // longest) for side in (width, height))
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    about = {"mode": beton.RAW, "width": width, "height": height}
    if np.random.default_rng([index]).random() >= store.jpeg:
        return np.ascontiguousarray(pixels), about
    quality = [int(cv2.IMWRITE_JPEG_QUALITY), store.quality]
    _, content = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), quality)
    return content, about | {"mode": beton.JPEG}
