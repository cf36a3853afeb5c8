"""What a trial goes on from while it runs, and what it leaves: files in its own folder, whole or not there."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness import storage

LAST, WEIGHTS = "last.pt", "weights.pt"


def exists(folder: Path) -> bool:
    """Whether there is a state to go on from."""
    return (folder / LAST).exists()


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Keep the state to go on from, of tensors and plain values."""
    _write(folder / LAST, state)


def load(folder: Path) -> dict[str, Any] | None:
    """The state to go on from, if there is one."""
    return _read(folder / LAST) if exists(folder) else None


def discard(folder: Path) -> None:
    """Remove the state of a trial that has its record."""
    (folder / LAST).unlink(missing_ok=True)


def save_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Keep a trained network's state dict."""
    _write(folder / WEIGHTS, weights)


def load_weights(file: Path) -> dict[str, Tensor]:
    """A trained network's state dict, on the CPU."""
    return _read(file)


def _write(file: Path, content: Any) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    file.parent.mkdir(parents=True, exist_ok=True)
    storage.write_atomic(file, buffer.getvalue())


def _read(file: Path) -> Any:
    return torch.load(io.BytesIO(file.read_bytes()), map_location="cpu", weights_only=True)
