"""Whole images as a .beton file keeps them, and how one is made of them that a network can take."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from harness.config import Store
from harness.data import beton

MISSING = "whole images are written and read by OpenCV, which is not installed: pip install opencv-python-headless"


def encoded(pixels: np.ndarray, store: Store, index: int) -> tuple[np.ndarray, Mapping[str, int]]:
    """An image (H, W, 3) as it is kept, and its row of the file."""
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if store.max_side is not None and longest > store.max_side:
        height, width = (max(1, side * store.max_side // longest) for side in (height, width))
        pixels = resized(pixels, height, width)
    about = {"mode": beton.RAW, "width": width, "height": height}
    if np.random.default_rng([index]).random() >= store.jpeg:
        return np.ascontiguousarray(pixels), about
    quality = [int(opencv().IMWRITE_JPEG_QUALITY), store.quality]
    _, content = opencv().imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), quality)
    return content, about | {"mode": beton.JPEG}


def decoded(stored: np.ndarray, about: np.ndarray) -> np.ndarray:
    """The pixels (H, W, 3) of an image as it is kept. Raises ValueError when it cannot be decoded."""
    shape = int(about["height"]), int(about["width"]), 3
    if about["mode"] == beton.RAW:
        return stored.reshape(shape)
    pixels = opencv().imdecode(np.asarray(stored), opencv().IMREAD_COLOR_RGB)
    if pixels is None or pixels.shape != shape:
        raise ValueError(DAMAGED)
    return pixels


DAMAGED = "a stored image cannot be decoded: `harness data verify` says which file is damaged"


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image (h, w, 3) as (height, width, 3), each pixel the mean of the area it covers."""
    return opencv().resize(pixels, (width, height), interpolation=opencv().INTER_AREA)


@cache
def opencv() -> Any:
    """OpenCV in the thread that calls it: its own do not survive where processes are forked. Raises ValueError."""
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise ValueError(MISSING) from error
    cv2.setNumThreads(1)
    return cv2
