"""Small files in the formats that datasets are read from."""

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image


def image_folder(folder: Path, *, train: int = 12, test: int = 6, size: int = 8, suffix: str = ".png") -> Path:
    """Random RGB images of three classes, `train` and `test` of each."""
    random = np.random.default_rng(0)
    for split, number in (("train", train), ("test", test)):
        for name in ("ant", "bee", "cow"):
            below = folder / split / name
            below.mkdir(parents=True)
            for index in range(number):
                pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(below / f"{index:03}{suffix}")
    return folder


def idx(array: np.ndarray) -> bytes:
    """A file of bytes in MNIST's format."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def mnist(root: Path, module: ModuleType, monkeypatch, *, zipped: bool) -> dict[str, np.ndarray]:
    """Forty random images under `root`, which `module` then takes for the official ones."""
    random = np.random.default_rng(0)
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    arrays = {}
    for prefix, number in (("train", 30), ("t10k", 10)):
        arrays[f"{prefix}-images-idx3-ubyte"] = random.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte"] = random.integers(0, 10, number, dtype=np.uint8)
    for name, array in arrays.items():
        content = idx(array)
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content) if zipped else content)
    checksums = {name: f"md5:{hashlib.md5(idx(array)).hexdigest()}" for name, array in arrays.items()}
    info = replace(module.INFO, sizes={"train": 30, "test": 10}, checksums=checksums)
    monkeypatch.setattr(module, "INFO", info)
    return arrays
