"""IDX files of MNIST and its successors: arrays of bytes behind a short header, gzipped or not."""

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.contract import Sample


class Images(Sequence[Sample]):
    """One split of images (1, H, W); the files are read when the first sample is asked for."""

    def __init__(self, folder: Path, prefix: str, checksums: Mapping[str, str]):
        """`prefix` is 'train' or 't10k'. Raises FileNotFoundError that names the missing file."""
        self._checksums = checksums
        self._files = [
            _find(folder, f"{prefix}-{kind}", checksums) for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
        ]
        self._arrays: list[np.ndarray] | None = None

    def _read(self) -> list[np.ndarray]:
        if self._arrays is None:
            self._arrays = [read(file, self._checksums) for file in self._files]  # N H W and N
        return self._arrays

    def __len__(self) -> int:
        return len(self._read()[1])

    def __getitem__(self, index: Any) -> Any:
        images, labels = self._read()
        return images[index][None], int(labels[index])


def read(file: Path, checksums: Mapping[str, str]) -> np.ndarray:
    """Return the array in an IDX file of bytes, gzipped or not, of shape (N,) or (N, H, W).

    `checksums` are of the files as they are, or as they are after unpacking. Raises ValueError when the content is
    another one.
    """
    packed = file.read_bytes()
    content = gzip.decompress(packed) if file.suffix == ".gz" else packed
    expected = checksums.get(file.name) or checksums[file.name.removesuffix(".gz")]
    checked = packed if file.name in checksums else content
    if f"md5:{hashlib.md5(checked, usedforsecurity=False).hexdigest()}" != expected:
        raise ValueError(f"{file} is damaged: its content does not have the checksum {expected}")
    axes = content[3]
    shape = np.frombuffer(content, ">i4", count=axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _find(folder: Path, name: str, checksums: Mapping[str, str]) -> Path:
    names = [f"{name}.gz"] if f"{name}.gz" in checksums else [name, f"{name}.gz"]
    for file in (folder / each for each in names):
        if file.is_file():
            return file
    raise FileNotFoundError(f"no {' or '.join(names)} in {folder}")
