"""The pickled batches of CIFAR-10 and CIFAR-100, as torchvision unpacks them; nothing in them is executed."""

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.contract import Sample

SHAPE = (3, 32, 32)
ALLOWED = {"_reconstruct": np.empty(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}
"""All that a pickled array of bytes consists of."""


class Images(Sequence[Sample]):
    """One split of images (3, 32, 32); the files are read when the first sample is asked for."""

    def __init__(self, files: Sequence[Path], labels: str, checksums: Mapping[str, str]):
        """`labels` is the key under which the files keep the classes. Raises FileNotFoundError naming a file."""
        if missing := [file for file in files if not file.is_file()]:
            raise FileNotFoundError(f"no {missing[0].name} in {missing[0].parent}")
        self._files, self._key, self._checksums = files, labels, checksums
        self._arrays: tuple[np.ndarray, list[int]] | None = None

    def _read(self) -> tuple[np.ndarray, list[int]]:
        if self._arrays is None:
            batches = [read(file, self._checksums[file.name]) for file in self._files]
            images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, *SHAPE)
            self._arrays = images, [int(label) for batch in batches for label in batch[self._key]]
        return self._arrays

    def __len__(self) -> int:
        return len(self._read()[1])

    def __getitem__(self, index: Any) -> Any:
        images, labels = self._read()
        return images[index], labels[index]


class _Unpickler(pickle.Unpickler):
    """Knows arrays and plain values only: a pickle may otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] != "numpy" or name not in ALLOWED:
            raise pickle.UnpicklingError(f"'{module}.{name}' has no place in a file of images")
        return ALLOWED[name]


def read(file: Path, checksum: str) -> dict[str, Any]:
    """Return what is in a file of images. Raises ValueError when it is not the official file."""
    with file.open("rb") as content:
        if f"md5:{hashlib.file_digest(content, 'md5').hexdigest()}" != checksum:
            raise ValueError(f"{file} is damaged: its content does not have the checksum {checksum}")
        content.seek(0)
        return _Unpickler(content, encoding="latin1").load()
