"""Feeds batches: from memory, streamed by FFCV, or sample by sample through torch; all three give the same tensors.

Which samples make up a batch, and how each is cropped and flipped, depends only on the seed and the epoch: not on the
way they are read, not on the number of workers, and torch's global generator is neither used nor disturbed.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, assert_never

import numpy as np
import torch
from torch import Tensor

from harness import augment as augmentation
from harness import ffcv_compat
from harness.config import Augment, Normalize
from harness.contract import DatasetInfo, Sample
from harness.encode import array_files, beton_file
from harness.plugins import unknown
from harness.prepare import Prepared, decoded_bytes, fits_memory, memory_limit_bytes, prepare_source
from harness.source import SPLITS, find

Kind = Literal["memory", "ffcv", "torch"]

# What a random stream is for; the other numbers of its seed are the user's.
ORDER, CUT = 0, 2  # augmentation has 1

log = logging.getLogger(__name__)


class Reader(Protocol):
    """Reads the samples at given indices of one split, in that order."""

    def read(self, indices: np.ndarray, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield uint8 samples (B, C, H, W) or (B, F, C, H, W), valid until the next batch, and int64 labels (B,)."""

    def close(self) -> None:
        """Let go of files and threads."""


class Data:
    """One prepared dataset, opened: its training samples cut into 'train' and 'validation', and 'test'."""

    def __init__(
        self,
        prepared: Prepared,
        kind: Kind,
        readers: Mapping[str, Reader],
        *,
        validation: float,
        split_seed: int,
        device: torch.device,
        augment: Augment,
    ):
        self.info: DatasetInfo = prepared.info
        self.fingerprint = prepared.fingerprint
        self.kind = kind
        train, held_out = cut(self.info.sizes["train"], validation, split_seed)
        self._parts = {
            "train": ("train", train),
            "validation": ("train", held_out),
            "test": ("test", np.arange(self.info.sizes["test"])),
        }
        self.sizes: Mapping[str, int] = {part: len(indices) for part, (_, indices) in self._parts.items()}
        self._readers = readers
        self._device = device
        self._augment = augment
        self._scale, self._shift = (each.to(device, torch.float32) for each in affine(self.info))

    def batches(
        self, part: str, batch_size: int, *, epoch: int = 0, seed: int = 0, rank: int = 0, world: int = 1,
        augmented: bool = True,
    ) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
        """Yield x, float32 (B, C, H, W) normalised, or (F, B, C, H, W) counts, and y, int64 (B,), on the device.

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
                x = x.transpose(0, 1)  # F B C H W
            x = x.to(torch.float32, memory_format=torch.contiguous_format).mul_(self._scale).add_(self._shift)
            # After normalising, because what is cut out becomes the mean.
            yield augmentation.cut_out(x, moves, augment.cutout) if moves and augment.cutout else x, y

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()


def open_data(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    validation: float = 0.1,
    split_seed: int = 0,
    loader: Literal["auto", "memory", "ffcv", "torch"] = "auto",
    device: str | torch.device = "cpu",
    augment: Augment | None = None,
    normalize: Normalize | None = None,
) -> Data:
    """Open a dataset, preparing it first where that has not been done.

    `auto` feeds from memory what fits (HARNESS_MEMORY_LIMIT), streams the rest by FFCV, and reads sample by sample
    where FFCV is not installed.

    Raises ValueError when the loader asked for is not possible here, FileNotFoundError when data are missing.
    """
    if not 0 <= validation < 1:
        raise ValueError(
            f"the validation part is a fraction of the training samples, at least 0 and below 1, not {validation}"
        )
    source = find(name, options)
    kind = _choose(loader, name, source.info)
    prepared = prepare_source(source, beton=kind == "ffcv")
    if normalize:
        prepared = replace(prepared, info=replace(prepared.info, mean=normalize.mean, std=normalize.std))
    device = torch.device(device)
    match kind:
        case "memory":
            readers: dict[str, Reader] = {split: _Memory(prepared.folder, split, device) for split in SPLITS}
        case "ffcv":
            readers = {split: _Streamed(prepared, split) for split in SPLITS}
        case "torch":
            readers = {split: _Sampled(samples) for split, samples in source.samples().items()}
        case _:
            assert_never(kind)
    return Data(
        prepared,
        kind,
        readers,
        validation=validation,
        split_seed=split_seed,
        device=device,
        augment=augment or Augment(),
    )


def _choose(loader: Literal["auto", "memory", "ffcv", "torch"], name: str, info: DatasetInfo) -> Kind:
    match loader:
        case "auto":
            if fits_memory(info):
                return "memory"
            if ffcv_compat.available():
                return "ffcv"
            log.warning("%s does not fit in memory and FFCV is not installed: reading sample by sample, slowly", name)
            return "torch"
        case "memory":
            if not fits_memory(info):
                raise ValueError(
                    f"{name} takes {decoded_bytes(info)} bytes, more than the {memory_limit_bytes()} that loader "
                    f"'memory' may fill: raise HARNESS_MEMORY_LIMIT, or choose 'ffcv'"
                )
        case "ffcv":
            if not ffcv_compat.available():
                raise ValueError(ffcv_compat.MISSING)
        case "torch":
            pass
        case _:
            raise ValueError(unknown("loader", loader, ("auto", "memory", "ffcv", "torch")))
    return loader


def affine(info: DatasetInfo) -> tuple[Tensor, Tensor]:
    """What a stored value is multiplied by and what is then added, for each channel: float64, (C, 1, 1) or ().

    Images: (x / 255 - mean) / std. Counts of events: as they are.
    """
    if info.temporal:
        return torch.tensor(info.unit, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
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


class _Memory:
    """A split as one uint8 tensor on the device; on the CPU a view of the file, shared by all processes."""

    def __init__(self, folder: Path, split: str, device: torch.device):
        # Mapped copy-on-write, because torch has no read-only tensors; nothing is ever written.
        images, labels = (np.load(folder / name, mmap_mode="c") for name in array_files(split))
        self._images, self._labels = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)

    def read(self, indices: np.ndarray, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in torch.from_numpy(indices).to(self._images.device).split(batch_size):
            if len(chosen):
                yield self._images[chosen], self._labels[chosen]

    def close(self) -> None:
        self._images = self._labels = torch.empty(0)


class _Streamed:
    """A split streamed by FFCV; opened when first read, because that compiles code."""

    def __init__(self, prepared: Prepared, split: str):
        self._file, self._shape = prepared.folder / beton_file(split), prepared.info.sample_shape
        self._reader: ffcv_compat.Reader | None = None

    def read(self, indices: np.ndarray, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        if self._reader is None:
            self._reader = ffcv_compat.Reader(self._file, self._shape)
        return self._reader.read(indices, batch_size)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None


class _Sampled(torch.utils.data.Dataset):
    """A split decoded sample by sample, each time anew, in as many processes as torch has threads."""

    def __init__(self, samples: Sequence[Sample]):
        self._samples = samples

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self._samples[index]
        return torch.from_numpy(image.copy()), label  # torch warns of arrays that are read-only

    def read(self, indices: np.ndarray, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        threads = torch.get_num_threads()
        batches = [indices[start : start + batch_size].tolist() for start in range(0, len(indices), batch_size)]
        return iter(
            torch.utils.data.DataLoader(
                self,
                batch_sampler=batches,
                num_workers=threads if threads > 1 else 0,
                generator=torch.Generator(),  # else it draws a seed from torch's own
            )
        )

    def close(self) -> None:
        pass
