"""Reads the samples of one split, pixels of one size: from memory, streamed by FFCV, or one by one through torch."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil
import torch
from torch import Tensor

from harness.config import DatasetBlock
from harness.data import beton, ffcv_compat
from harness.data.encode import array_files, beton_file
from harness.data.prepare import Prepared


class Reader(Protocol):
    """Reads the samples at given indices of one split, in that order."""

    def read(
        self, indices: np.ndarray, batch_size: int, drawn: np.ndarray | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield samples, valid until the next batch, and int64 labels (B,).

        Samples are uint8 (B, C, H, W) or (B, T, P, H, W), or else float32 and finished. `drawn`: what is drawn for each
        of them, where that matters when they are made.
        """

    def close(self) -> None:
        """Let go of files and threads."""


class Fill(Protocol):
    """Makes a batch of what is stored, in as many threads as numba has: the one place that knows what that is."""

    shape: tuple[int, ...]
    """Shape of one sample as it is made."""
    dtype: np.dtype

    def __call__(
        self, data: np.ndarray, starts: np.ndarray, sizes: np.ndarray, about: np.ndarray, positions: slice,
        out: np.ndarray,
    ) -> None:  # fmt: skip
        """Write sample b of the batch into out[b].

        Its bytes are `data[starts[b] : starts[b] + sizes[b]]` (uint8; int64), its row of the file is `about[b]`, and
        `positions` are the places of the batch in this worker's order of the epoch, for what is drawn for each.
        """


MEMORY_SHARE = 0.75
"""Of the memory that is free: what a file may take that the operating system is to keep."""

log = logging.getLogger(__name__)


def os_cache(block: DatasetBlock, file: Path) -> bool:
    """Whether the operating system is to keep a file in memory, rather than FFCV the pages that it needs.

    Raises ValueError where FFCV would need all of them.
    """
    size, free = file.stat().st_size, psutil.virtual_memory().available
    fits = size <= MEMORY_SHARE * free
    if block.os_cache == "auto":
        if not fits and block.order == "random":
            log.warning("%s is larger than the memory: 'order: quasi_random' would read it page by page", file)
        return fits or block.order == "random"
    if not block.os_cache and not fits and block.order == "random":
        raise ValueError(
            f"os_cache: false with 'order: random' keeps {file} in memory, {size} bytes of which {free} are free: "
            "choose 'order: quasi_random'"
        )
    return block.os_cache


def opened(kind: str, prepared: Prepared, split: str, device: torch.device, *, os_cache: bool) -> Reader:
    """The reader of a split of pixels, of that kind."""
    if kind == "memory":
        return Memory(prepared.folder, split, device)
    if kind == "ffcv":
        return Streamed(prepared, split, os_cache=os_cache)
    return Sampled(prepared, split)


class Memory:
    """A split as one uint8 tensor on the device; on the CPU a view of the file, shared by all processes."""

    def __init__(self, folder: Path, split: str, device: torch.device):
        # Mapped copy-on-write, because torch has no read-only tensors; nothing is ever written.
        images, labels = (np.load(folder / name, mmap_mode="c") for name in array_files(split))
        self._images, self._labels = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)

    def read(
        self, indices: np.ndarray, batch_size: int, drawn: np.ndarray | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in torch.from_numpy(indices).to(self._images.device).split(batch_size):
            if len(chosen):
                yield self._images.index_select(0, chosen), self._labels[chosen]  # rows at once, not number by number

    def close(self) -> None:
        self._images = self._labels = torch.empty(0)


class Pixels:
    """Pixels of one size as they are stored."""

    dtype = np.dtype("u1")

    def __init__(self, shape: tuple[int, ...]):
        channels, height, width = shape
        self.shape = (height, width, channels) if channels == 3 else shape

    def __call__(
        self, data: np.ndarray, starts: np.ndarray, sizes: np.ndarray, about: np.ndarray, positions: slice,
        out: np.ndarray,
    ) -> None:  # fmt: skip
        from harness.data import image_kernels

        image_kernels.copy(data, starts, out.reshape(len(out), -1))


class Streamed:
    """A split streamed by FFCV; opened when first read, because importing FFCV takes a while."""

    def __init__(self, prepared: Prepared, split: str, *, os_cache: bool = True):
        self._file, self._shape, self._os_cache = prepared.folder / beton_file(split), prepared.info.shape, os_cache
        self._reader: ffcv_compat.Reader | None = None

    def read(
        self, indices: np.ndarray, batch_size: int, drawn: np.ndarray | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if self._reader is None:
            threads = torch.get_num_threads()
            self._reader = ffcv_compat.Reader(self._file, threads=threads, os_cache=self._os_cache)
        for samples, labels in self._reader.read(indices, batch_size, Pixels(self._shape)):
            yield samples.permute(0, 3, 1, 2) if self._shape[0] == 3 else samples, labels

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None


class Sampled(torch.utils.data.Dataset):
    """A split read sample by sample, in as many processes as torch has threads."""

    def __init__(self, prepared: Prepared, split: str):
        self._file, self._shape = beton.read(prepared.folder / beton_file(split)), prepared.info.shape

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        channels, height, width = self._shape
        pixels = torch.from_numpy(self._file.payload(index).copy())  # torch warns of arrays that are read-only
        label = int(self._file.labels[index])
        if channels == 3:
            return pixels.view(height, width, channels).permute(2, 0, 1), label
        return pixels.view(self._shape), label

    def read(
        self, indices: np.ndarray, batch_size: int, drawn: np.ndarray | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        return through_torch(self, indices, batch_size)

    def close(self) -> None:
        pass


def through_torch(
    samples: torch.utils.data.Dataset, indices: np.ndarray, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the samples at `indices`, in that order."""
    threads = torch.get_num_threads()
    batches = (indices[start : start + batch_size].tolist() for start in range(0, len(indices), batch_size))
    return iter(
        torch.utils.data.DataLoader(
            samples,
            batch_sampler=batches,
            num_workers=threads if threads > 1 else 0,
            generator=torch.Generator(),  # else it draws a seed from torch's own
        )
    )
