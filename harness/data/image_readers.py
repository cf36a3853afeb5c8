"""Reads whole images, cut to one size: streamed by FFCV, or one by one through torch; both give the same pixels."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.config import Augment
from harness.contract import DatasetInfo
from harness.data import augment, beton, crops, ffcv_compat, images
from harness.data.encode import beton_file
from harness.data.prepare import Prepared
from harness.data.readers import through_torch


class View(NamedTuple):
    """What is looked at of images: which part of each, and how large it becomes."""

    height: int
    width: int
    centre: float
    """Part of the shorter side that is looked at where nothing is drawn, in the middle."""
    scale: tuple[float, float] | None
    """Bounds of the part of the area that is looked at where it is drawn."""

    def parts(self, about: np.ndarray, drawn: np.ndarray | None) -> np.ndarray:
        """Top, left, height and width, int64 (B, 4), for images with these rows of the file."""
        sizes = np.stack([about["height"], about["width"]], axis=1)
        if drawn is None or self.scale is None:
            return crops.middle(sizes, self.centre)
        return crops.random(sizes, drawn["crop"], self.scale)


def view(info: DatasetInfo, augmented: Augment) -> View:
    """What a network sees of whole images."""
    return View(*info.shape[1:], info.centre, augmented.random_resized_crop)


class Finish(NamedTuple):
    """What is done to an image once it is cut, where that is done on the CPU."""

    scale: np.ndarray
    """What each number of a row of pixels is multiplied by, float32 (W * 3,)."""
    shift: np.ndarray
    """What is then added."""
    cutout: int
    """Side in pixels of the square that is set to zero."""


def finish(info: DatasetInfo, augmented: Augment, affine: tuple[Tensor, Tensor]) -> Finish | None:
    """How images are finished while they are read; None where they are moved over their borders, which is done later.

    `affine` is what a value is multiplied by and what is added, for each channel, as (3, 1, 1).
    """
    if augmented.crop_padding or augmented.roll:
        return None
    scale, shift = (each.flatten().repeat(info.shape[2]).to("cpu", torch.float32).numpy() for each in affine)
    return Finish(scale, shift, augmented.cutout)


class Fill:
    """Makes images of one size, uint8, or float32 if they are finished; see `readers.Fill`."""

    def __init__(self, view: View, finish: Finish | None, drawn: np.ndarray | None, largest_bytes: int):
        """`drawn` (N,), of type `augment.IMAGE`, in the order in which images are read."""
        self.shape: tuple[int, ...] = (view.height, view.width, 3)
        self.dtype = np.dtype("u1" if finish is None else "f4")
        self._view, self._finish, self._drawn, self._largest = view, finish, drawn, largest_bytes
        self._rooms: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(
        self, data: np.ndarray, starts: np.ndarray, sizes: np.ndarray, about: np.ndarray, positions: slice,
        out: np.ndarray,
    ) -> None:  # fmt: skip
        from harness.data import image_kernels

        drawn = None if self._drawn is None else self._drawn[positions]
        shapes = np.stack([about["height"], about["width"]], axis=1).astype(np.int64)
        which = (data, starts, sizes, about["mode"] == beton.JPEG, shapes, self._view.parts(about, drawn))
        decoded, small = self._rooms = self._rooms or self._room()
        good = np.empty(len(out), np.bool_)
        if self._finish is None:
            image_kernels.cut(*which, decoded, out, good)
        else:
            moves = np.zeros((len(out), 7), "<i4") if drawn is None else drawn["moves"]
            cutout = 0 if drawn is None else self._finish.cutout
            after = (np.ascontiguousarray(moves[:, augment.FLIP]), np.ascontiguousarray(moves[:, augment.HOLE]), cutout)
            image_kernels.cut_and_finish(*which, decoded, *after, *self._finish[:2], small, out, good)
        if not good.all():
            raise ValueError(images.DAMAGED)

    def _room(self) -> tuple[np.ndarray, np.ndarray]:
        """For each thread room for the largest image, decoded, and for one that is cut, and a row of pixels."""
        import numba

        threads, (height, width, _) = numba.get_num_threads(), self.shape
        return np.empty((threads, self._largest), np.uint8), np.empty((threads, height + 1, width, 3), np.uint8)


class Streamed:
    """A split streamed by FFCV; opened when first read, because importing FFCV takes a while."""

    def __init__(self, prepared: Prepared, split: str, view: View, finish: Finish | None, *, os_cache: bool):
        self._file, self._os_cache = prepared.folder / beton_file(split), os_cache
        self._view, self._finish = view, finish
        self._opened: tuple[ffcv_compat.Reader, int] | None = None

    def read(
        self, indices: np.ndarray, batch_size: int, drawn: np.ndarray | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        reader, largest = self._opened = self._opened or self._open()
        for samples, labels in reader.read(indices, batch_size, Fill(self._view, self._finish, drawn, largest)):
            yield samples.permute(0, 3, 1, 2), labels  # B C H W

    def _open(self) -> tuple[ffcv_compat.Reader, int]:
        about = beton.read(self._file).about
        jpeg = about["mode"] == beton.JPEG
        largest = int((about["height"].astype(np.int64) * about["width"] * 3)[jpeg].max(initial=1))
        threads = torch.get_num_threads()
        return ffcv_compat.Reader(self._file, threads=threads, os_cache=self._os_cache), largest

    def close(self) -> None:
        if self._opened:
            self._opened[0].close()
        self._opened = None


class Sampled:
    """A split read sample by sample, in as many processes as torch has threads."""

    def __init__(self, prepared: Prepared, split: str, view: View):
        self._file, self._view = beton.read(prepared.folder / beton_file(split)), view

    def read(
        self, indices: np.ndarray, batch_size: int, drawn: np.ndarray | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = _Epoch(self._file, self._view, indices, drawn)
        for samples, labels in through_torch(epoch, np.arange(len(indices)), batch_size):
            yield samples.permute(0, 3, 1, 2), labels  # B C H W

    def close(self) -> None:
        pass


class _Epoch(torch.utils.data.Dataset):
    """The images of one epoch, in their order: uint8 (H, W, 3)."""

    def __init__(self, file: beton.File, view: View, indices: np.ndarray, drawn: np.ndarray | None):
        images.opencv()
        self._file, self._view, self._indices, self._drawn = file, view, indices, drawn

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        index = self._indices[position]
        one = slice(position, position + 1)
        drawn = None if self._drawn is None else self._drawn[one]
        ((top, left, height, width),) = self._view.parts(self._file.about[index : index + 1], drawn)
        pixels = images.decoded(self._file.payload(index), self._file.about[index])
        part = pixels[top : top + height, left : left + width]
        made = images.resized(part, self._view.height, self._view.width)
        return torch.from_numpy(made), int(self._file.labels[index])
