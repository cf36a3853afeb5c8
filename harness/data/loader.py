"""Feeds batches: from memory, streamed by FFCV, or sample by sample through torch; all three give the same tensors.

Which samples make up a batch, and how each is cropped and flipped, depends only on the seed and the epoch: not on the
way they are read, not on the number of workers, and torch's global generator is neither used nor disturbed.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal, assert_never

import numpy as np
import torch
from torch import Tensor

from harness.config import Augment, DatasetBlock
from harness.contract import DatasetInfo
from harness.data import augment as augmentation
from harness.data import beton, event_readers, ffcv_compat, frames, image_readers, readers
from harness.data.encode import beton_file
from harness.data.order import cut, training_order
from harness.data.prepare import Prepared, decoded_bytes, fits_memory, memory_limit_bytes, prepare_source
from harness.data.readers import Reader
from harness.data.source import SPLITS, of, seen
from harness.plugins import unknown

Kind = Literal["memory", "ffcv", "torch"]

log = logging.getLogger(__name__)


class Data:
    """One prepared dataset, opened: its training samples cut into 'train' and 'validation', and 'test'."""

    def __init__(
        self, info: DatasetInfo, fingerprint: str, kind: Kind, readers: Mapping[str, Reader], block: DatasetBlock,
        device: torch.device, pages: np.ndarray | None = None,
    ):  # fmt: skip
        """`pages`: the page of the file that each sample of the training split is on, where that decides the order."""
        self.info, self.fingerprint, self.kind = info, fingerprint, kind
        train, held_out = cut(self.info.sizes["train"], block.validation, block.split_seed)
        self._parts = {
            "train": ("train", train),
            "validation": ("train", held_out),
            "test": ("test", np.arange(self.info.sizes["test"])),
        }
        self.sizes: Mapping[str, int] = {part: len(indices) for part, (_, indices) in self._parts.items()}
        self._readers, self._pages = readers, None if pages is None else pages[train]
        self._device = device
        self._augment, self._size = block.augment, block.frames.size
        self._scale, self._shift = (each.to(device, torch.float32) for each in affine(self.info))

    def batches(
        self, part: str, batch_size: int, *, epoch: int = 0, seed: int = 0, rank: int = 0, world: int = 1,
        augmented: bool = True, start: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
        """Yield x, float32 (B, C, H, W) normalised, or (T, B, C, H, W) counts, and y, int64 (B,), on the device.

        A batch of whole images is valid until the next one is asked for.
        `batch_size` is that of all `world` workers together. 'train' is shuffled by seed and epoch, augmented, shared
        equally, and drops the last batch unless it is full; `augmented=False` leaves its images as they are, and the
        first `start` batches are left out without being read; the others are as they would be behind them.
        'validation' and 'test' give every sample once over all workers, in a fixed order; the last batch is short, and
        a worker may have none: sum counts, not means.

        Raises ValueError when a training batch cannot be shared equally, or the part has less than one.
        """
        if part not in self._parts:
            raise ValueError(unknown("part", part, self._parts))
        split, indices = self._parts[part]
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world} workers")
        if batch_size < 1:
            raise ValueError(f"a batch of {batch_size} samples")
        if not len(indices):
            return iter(())
        if part != "train":
            if start:
                raise ValueError(f"'{part}' is given from its beginning only")
            return self._stream(split, indices[rank::world], -(-batch_size // world), None)
        if batch_size % world:
            raise ValueError(f"a batch of {batch_size} cannot be shared equally by {world} workers")
        order = training_order(len(indices), batch_size, seed=seed, epoch=epoch, pages=self._pages)
        mine = slice(start * batch_size + rank, None, world)
        chosen = self._augment if augmented else Augment()
        drawn = augmentation.draw(len(order), chosen, self.info.shape, seed, epoch)
        moves = None if drawn is None else torch.from_numpy(drawn[mine]).to(self._device)
        read_with = augmentation.drops(len(order), chosen, seed, epoch)
        if self.info.stored == "images":
            read_with = augmentation.draw_images(len(order), chosen, drawn, seed, epoch)
        read_with = None if read_with is None else read_with[mine]
        return self._stream(split, indices[order[mine]], batch_size // world, moves, read_with)

    def _stream(
        self,
        split: str,
        indices: np.ndarray,
        batch_size: int,
        drawn: Tensor | None,
        read_with: np.ndarray | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if not len(indices):  # a worker's share of few samples, or what is left when all batches were taken
            return
        done, augment = 0, self._augment
        form = torch.channels_last if self.info.stored == "images" else torch.contiguous_format
        for images, labels in self._readers[split].read(indices, batch_size, read_with):
            x, y = images.to(self._device), labels.to(self._device)
            if x.is_floating_point():
                yield x, y
                continue
            moves = None if drawn is None else augmentation.moves(drawn[done : done + len(x)])
            done += len(x)
            if self._size:
                x = frames.resized(x, self._size)
            if moves and (augment.crop_padding or augment.flip or augment.roll):
                x = augmentation.move(x.flatten(1, -3), moves, augment.crop_padding).view_as(x)
            if self.info.temporal:
                x = x.transpose(0, 1).to(torch.float32, memory_format=form).contiguous()  # T B C H W
            else:
                x = x.to(torch.float32, memory_format=form).mul_(self._scale).add_(self._shift)
            # After normalising, because what is cut out becomes the mean.
            yield augmentation.cut_out(x, moves, augment.cutout) if moves and augment.cutout else x, y

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()


def open_data(block: DatasetBlock, *, time_steps: int = 1, device: str | torch.device = "cpu") -> Data:
    """Open a dataset as an experiment asks for it, preparing it first where that has not been done.

    The loader `auto` feeds from memory what fits (HARNESS_MEMORY_LIMIT), streams the rest by FFCV, and reads sample by
    sample where FFCV is not installed. `time_steps` is the number of frames, T, that events become.

    Raises ValueError when the loader asked for is not possible here, FileNotFoundError when data are missing.
    """
    source, device = of(block), torch.device(device)
    info = seen(source.info, block)
    kept = replace(info, shape=frames.cut(source.info, block.frames, 1).shape[1:]) if info.temporal else info
    kind = _choose(block, kept, time_steps)
    prepared = prepare_source(source, beton=kind != "memory")
    if block.normalize:
        info = replace(info, mean=block.normalize.mean, std=block.normalize.std)
    found = {split: _reader(kind, prepared, split, block, time_steps, device, info) for split in SPLITS}
    return Data(info, prepared.fingerprint, kind, found, block, device, _pages(block, prepared))


def _pages(block: DatasetBlock, prepared: Prepared) -> np.ndarray | None:
    """The page of each training sample, numbered from 0, where the order depends on it."""
    if block.order == "random":
        return None
    file = beton.read(prepared.folder / beton_file("train"))
    return np.unique(file.about["ptr"] // file.page_size, return_inverse=True)[1]


def _reader(
    kind: Kind, prepared: Prepared, split: str, block: DatasetBlock, time_steps: int, device: torch.device,
    info: DatasetInfo,
) -> Reader:  # fmt: skip
    cached = kind == "ffcv" and readers.os_cache(block, prepared.folder / beton_file(split))
    match prepared.info.stored:
        case "pixels":
            return readers.opened(kind, prepared, split, device, os_cache=cached)
        case "events":
            return event_readers.opened(kind, prepared, split, block, time_steps, device, os_cache=cached)
        case "images":
            view = image_readers.view(info, block.augment)
            if kind == "torch":
                return image_readers.Sampled(prepared, split, view)
            finish = image_readers.finish(info, block.augment, affine(info)) if device.type == "cpu" else None
            return image_readers.Streamed(prepared, split, view, finish, os_cache=cached)


def _choose(block: DatasetBlock, info: DatasetInfo, time_steps: int) -> Kind:
    """How batches are fed. Raises ValueError for what is not possible, and for settings without effect on it."""
    kind = _image_loader(block) if info.stored == "images" else _loader(block, info, time_steps)
    if kind != "ffcv" and block.os_cache != "auto":
        raise ValueError(f"os_cache: no effect on loader '{kind}', only on 'ffcv'")
    if kind == "memory" and block.order != "random":
        raise ValueError("order: no effect on data that are in memory; choose loader 'ffcv', or leave it out")
    return kind


def _image_loader(block: DatasetBlock) -> Kind:
    match block.loader:
        case "memory":
            raise ValueError("loader 'memory': whole images are cropped when they are read; choose 'ffcv' or 'torch'")
        case "auto" | "torch":
            if block.loader == "auto" and ffcv_compat.available():
                return "ffcv"
            log.warning("%s is read image by image through torch, slower than by FFCV", block.name)
            return "torch"
        case "ffcv":
            if not ffcv_compat.available():
                raise ValueError(ffcv_compat.MISSING)
            return "ffcv"


def _loader(block: DatasetBlock, info: DatasetInfo, time_steps: int) -> Kind:
    match block.loader:
        case "auto":
            if fits_memory(info, time_steps) and not block.augment.event_drop:
                return "memory"
            if ffcv_compat.available():
                return "ffcv"
            why = "draws events anew" if block.augment.event_drop else "does not fit in memory"
            log.warning("%s %s and FFCV is not installed: read one by one, slowly", block.name, why)
            return "torch"
        case "memory":
            if block.augment.event_drop:
                raise ValueError(
                    "augment.event_drop leaves out other events in each epoch, and loader 'memory' makes frames once: "
                    "choose 'ffcv' or 'torch'"
                )
            if not fits_memory(info, time_steps):
                raise ValueError(
                    f"{block.name} takes {decoded_bytes(info, time_steps)} bytes, more than the {memory_limit_bytes()} "
                    f"that loader 'memory' may fill: raise HARNESS_MEMORY_LIMIT, or choose 'ffcv'"
                )
        case "ffcv":
            if not ffcv_compat.available():
                raise ValueError(ffcv_compat.MISSING)
        case "torch":
            pass
        case _:
            assert_never(block.loader)
    return block.loader


def affine(info: DatasetInfo) -> tuple[Tensor, Tensor]:
    """What a stored value is multiplied by and what is then added, for each channel: float64, (C, 1, 1) or ().

    Images: (x / 255 - mean) / std. Counts of events: as they are.
    """
    if info.temporal:
        return torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    mean, std = (torch.tensor(each, dtype=torch.float64)[:, None, None] for each in (info.mean, info.std))
    return 1 / (255 * std), -mean / std
