"""Reads recordings of events as frames: from memory, streamed by FFCV, or one by one through torch.

All make them of the same file, by one compiled kernel; where numba is not installed, by numpy.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.config import DatasetBlock
from harness.data import beton, ffcv_compat, frames, threads
from harness.data.encode import beton_file
from harness.data.frames import Cut
from harness.data.prepare import Prepared
from harness.data.readers import Reader, through_torch

CHUNK_BYTES = 32 << 20
"""Frames that are made at a time on their way to the device."""


def opened(
    kind: str, prepared: Prepared, split: str, block: DatasetBlock, time_steps: int, device: torch.device,
    *, os_cache: bool,
) -> Reader:  # fmt: skip
    """The reader of a split of that kind, for `time_steps` frames."""
    cut, file = frames.cut(prepared.info, block.frames, time_steps), prepared.folder / beton_file(split)
    if kind == "memory":
        return Memory(file, cut, device)
    if kind == "ffcv":
        return Streamed(file, cut, os_cache=os_cache)
    return Sampled(file, cut)


class Fill:
    """Makes frames of the recordings of a batch; see `readers.Fill`."""

    dtype = np.dtype(np.uint8)

    def __init__(self, cut: Cut, drops: np.ndarray | None = None):
        """`drops` (N, 2) are in the order in which samples are read."""
        self.shape: tuple[int, ...] = cut.shape
        self._cut, self._drops = cut, drops

    def __call__(
        self, data: np.ndarray, starts: np.ndarray, sizes: np.ndarray, about: np.ndarray, positions: slice,
        out: np.ndarray,
    ) -> None:  # fmt: skip
        drops = None if self._drops is None else self._drops[positions]
        if compiled():
            from harness.data import frame_kernel

            frame_kernel.fill(data, starts, sizes, self._cut, drops, out)
            return
        for sample, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            drop = None if drops is None else drops[sample]
            out[sample] = frames.count(self._cut, data[start : start + size], drop)


def compiled() -> bool:
    """Whether frames are made by compiled code."""
    return importlib.util.find_spec("numba") is not None


class Memory:
    """A split as one uint8 tensor of frames on the device, made when it is first read."""

    def __init__(self, file: Path, cut: Cut, device: torch.device):
        self._file, self._cut, self._device = file, cut, device
        self._made: tuple[Tensor, Tensor] | None = None

    def read(
        self, indices: np.ndarray, batch_size: int, drawn: np.ndarray | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        assert drawn is None, "frames that are made once cannot leave out other events in each epoch"
        made, labels = self._made = self._made or self._make()
        for chosen in torch.from_numpy(indices).to(self._device).split(batch_size):
            if len(chosen):
                yield made.index_select(0, chosen), labels[chosen]

    def _make(self) -> tuple[Tensor, Tensor]:
        file, fill = beton.read(self._file), Fill(self._cut)
        data, starts, sizes = np.asarray(file.data), file.about["ptr"].astype(np.int64), file.sizes.astype(np.int64)
        made = torch.empty(len(sizes), *self._cut.shape, dtype=torch.uint8, device=self._device)
        for chunk in np.array_split(np.arange(len(sizes)), -(-made.nbytes // CHUNK_BYTES)):
            part = slice(chunk[0], chunk[-1] + 1)
            target = made[part] if made.device.type == "cpu" else torch.empty(made[part].shape, dtype=torch.uint8)
            with threads.numba(torch.get_num_threads()):
                fill(data, starts[part], sizes[part], file.about[part], part, target.numpy())
            if target.device != made.device:
                made[part] = target.to(made.device)
        return made, torch.from_numpy(file.labels.astype(np.int64)).to(self._device)

    def close(self) -> None:
        self._made = None


class Streamed:
    """A split streamed by FFCV; opened when first read."""

    def __init__(self, file: Path, cut: Cut, *, os_cache: bool):
        self._file, self._cut, self._os_cache = file, cut, os_cache
        self._reader: ffcv_compat.Reader | None = None

    def read(
        self, indices: np.ndarray, batch_size: int, drawn: np.ndarray | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if self._reader is None:
            number = torch.get_num_threads()
            with threads.numba(number):
                self._reader = ffcv_compat.Reader(self._file, threads=number, os_cache=self._os_cache)
        return self._reader.read(indices, batch_size, Fill(self._cut, drawn))

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None


class Sampled:
    """A split read sample by sample, in as many processes as torch has threads."""

    def __init__(self, file: Path, cut: Cut):
        self._file, self._cut = beton.read(file), cut

    def read(
        self, indices: np.ndarray, batch_size: int, drawn: np.ndarray | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        return through_torch(_Epoch(self._file, self._cut, indices, drawn), np.arange(len(indices)), batch_size)

    def close(self) -> None:
        pass


class _Epoch(torch.utils.data.Dataset):
    """The samples of one epoch, in their order."""

    def __init__(self, file: beton.File, cut: Cut, indices: np.ndarray, drops: np.ndarray | None):
        self._file, self._cut, self._indices, self._drops = file, cut, indices, drops
        self._make = None
        if compiled():
            from harness.data import frame_kernel

            self._make = frame_kernel.make
            self[0]  # so that it is compiled, or read from numba's cache, here and not in each process

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        index = self._indices[position]
        stored, label = np.asarray(self._file.payload(index)), int(self._file.labels[index])
        drop = None if self._drops is None else self._drops[position]
        if self._make is None:
            return torch.from_numpy(frames.count(self._cut, stored, drop)), label
        made = torch.empty(self._cut.shape, dtype=torch.uint8)
        self._make(stored, self._cut, drop, made.numpy())
        return made, label
