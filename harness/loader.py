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

from harness import augment as augmentation
from harness import ffcv_compat, readers
from harness.config import Augment, DatasetBlock
from harness.contract import DatasetInfo
from harness.plugins import unknown
from harness.prepare import Prepared, decoded_bytes, fits_memory, memory_limit_bytes, prepare_source
from harness.readers import Reader
from harness.source import SPLITS, of, seen

Kind = Literal["memory", "ffcv", "torch"]

# What a random stream is for; the other numbers of its seed are the user's.
ORDER, CUT = 0, 2  # augmentation has 1

log = logging.getLogger(__name__)


class Data:
    """One prepared dataset, opened: its training samples cut into 'train' and 'validation', and 'test'."""

    def __init__(
        self, info: DatasetInfo, fingerprint: str, kind: Kind, readers: Mapping[str, Reader], block: DatasetBlock,
        device: torch.device,
    ):  # fmt: skip
        self.info, self.fingerprint, self.kind = info, fingerprint, kind
        train, held_out = cut(self.info.sizes["train"], block.validation, block.split_seed)
        self._parts = {
            "train": ("train", train),
            "validation": ("train", held_out),
            "test": ("test", np.arange(self.info.sizes["test"])),
        }
        self.sizes: Mapping[str, int] = {part: len(indices) for part, (_, indices) in self._parts.items()}
        self._readers = readers
        self._device = device
        self._augment = block.augment
        self._scale, self._shift = (each.to(device, torch.float32) for each in affine(self.info))

    def batches(
        self, part: str, batch_size: int, *, epoch: int = 0, seed: int = 0, rank: int = 0, world: int = 1,
        augmented: bool = True,
    ) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
        """Yield x, float32 (B, C, H, W) normalised, or (T, B, C, H, W) counts, and y, int64 (B,), on the device.

        `batch_size` is that of all `world` workers together. 'train' is shuffled by seed and epoch, augmented, shared
        equally, and drops the last batch unless it is full; `augmented=False` leaves its images as they are.
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
            return self._stream(split, indices[rank::world], -(-batch_size // world), None)
        if batch_size % world:
            raise ValueError(f"a batch of {batch_size} cannot be shared equally by {world} workers")
        order = training_order(len(indices), batch_size, seed=seed, epoch=epoch)
        chosen = self._augment if augmented else Augment()
        drawn = augmentation.draw(len(order), chosen, self.info.shape, seed, epoch)
        moves = None if drawn is None else torch.from_numpy(drawn[rank::world]).to(self._device)
        return self._stream(split, indices[order[rank::world]], batch_size // world, moves)

    def _stream(
        self, split: str, indices: np.ndarray, batch_size: int, drawn: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        done, augment = 0, self._augment
        for images, labels in self._readers[split].read(indices, batch_size):
            x, y = images.to(self._device), labels.to(self._device)
            moves = None if drawn is None else augmentation.moves(drawn[done : done + len(x)])
            done += len(x)
            if moves and (augment.crop_padding or augment.flip or augment.roll):
                x = augmentation.move(x.flatten(1, -3), moves, augment.crop_padding).view_as(x)
            if self.info.temporal:
                x = x.transpose(0, 1)  # T B C H W
            x = x.to(torch.float32, memory_format=torch.contiguous_format).mul_(self._scale).add_(self._shift)
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
    kind = _choose(block, info, time_steps)
    prepared = prepare_source(source, beton=kind != "memory")
    if block.normalize:
        info = replace(info, mean=block.normalize.mean, std=block.normalize.std)
    found = {split: _reader(kind, prepared, split, block, time_steps, device) for split in SPLITS}
    return Data(info, prepared.fingerprint, kind, found, block, device)


def _reader(
    kind: Kind, prepared: Prepared, split: str, block: DatasetBlock, time_steps: int, device: torch.device
) -> Reader:
    match prepared.info.stored, kind:
        case "pixels", "memory":
            return readers.Memory(prepared.folder, split, device)
        case "pixels", "ffcv":
            return readers.Streamed(prepared, split)
        case "pixels", "torch":
            return readers.Sampled(prepared, split)
        case _:
            raise NotImplementedError(f"{prepared.info.stored} by {kind}")


def _choose(block: DatasetBlock, info: DatasetInfo, time_steps: int) -> Kind:
    match block.loader:
        case "auto":
            if fits_memory(info, time_steps):
                return "memory"
            if ffcv_compat.available():
                return "ffcv"
            log.warning("%s does not fit in memory and FFCV is not installed: read one by one, slowly", block.name)
            return "torch"
        case "memory":
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


def cut(num_samples: int, validation: float, split_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the validation samples, each ascending."""
    shuffled = np.random.default_rng([split_seed, 0, CUT]).permutation(num_samples)
    num_held_out = round(validation * num_samples)
    return np.sort(shuffled[num_held_out:]), np.sort(shuffled[:num_held_out])


def training_order(num_samples: int, batch_size: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch, without the samples that do not fill a batch.

    Worker r of n takes every n-th from r on: then batch b of all workers together is the b-th run of `batch_size`.
    """
    if num_samples < batch_size:
        raise ValueError(f"the training part has {num_samples} samples, less than one batch of {batch_size}")
    shuffled = np.random.default_rng([seed, epoch, ORDER]).permutation(num_samples)
    return shuffled[: num_samples // batch_size * batch_size]
