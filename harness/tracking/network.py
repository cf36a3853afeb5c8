"""A registered network, as `mlflow.pyfunc.load_model` loads it; nothing is unpickled but weights.

Input: uint8, as data are stored, of shape (B, C, H, W); events as frames of counts (B, T, P, h, w), which
`harness.data.frames` makes of a recording. It is normalised here as it was for training.
Output: probabilities of the classes, float32 (B, K), softmax of the scores after T steps, or after `time_steps` of the
T that are simulated, as in `params={"time_steps": 2}`.

Computes on the CPU, or on the device that MLFLOW_DEFAULT_PREDICTION_DEVICE names, in float32.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness import checkpoint, plugins
from harness.contract import DatasetInfo
from harness.data.frames import resized
from harness.data.loader import affine
from harness.evaluation import in_time
from harness.plan import Trial
from harness.tracking.models import DESCRIPTION, WEIGHTS

BATCH_SIZE = 256
"""Samples that are computed at once, however many are given."""


class Network:
    """A trained network with its description."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Build it from what `models.save` wrote.

        Raises ValueError when a method or network that it needs is not installed, or the weights are damaged.
        """
        described = json.loads((folder / DESCRIPTION).read_text())
        trial = Trial.model_validate(described["trial"])
        self._device, self._size = device, described["size"]
        self._method: Any = plugins.load("methods", trial.method)
        self._config = trial.config()
        info = _info(described)
        self._task = trial.task(info)
        self._net = self._method.build(self._config, self._task)
        self._net.load_state_dict(checkpoint.load_weights(folder / WEIGHTS))
        self._net.to(device).eval()
        self._scale, self._shift = (each.to(device, torch.float32) for each in affine(info))

    def predict(self, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Probabilities (B, K) of uint8 samples. Raises ValueError for `time_steps` beyond 1..T."""
        steps = int((params or {}).get("time_steps", self._task.time_steps))
        if not 1 <= steps <= self._task.time_steps:
            raise ValueError(f"time_steps: {steps} of the {self._task.time_steps} that the network was trained for")
        parts = [self._scores(part)[steps - 1] for part in self._parts(model_input)]
        found = torch.cat(parts) if parts else torch.empty(0, self._task.classes)
        return found.softmax(-1).cpu().numpy()

    def _parts(self, samples: np.ndarray) -> list[Tensor]:
        return list(torch.from_numpy(np.ascontiguousarray(samples)).split(BATCH_SIZE)) if len(samples) else []

    @torch.no_grad()
    def _scores(self, stored: Tensor) -> Tensor:
        """Scores (T, B, K)."""
        x = in_time(self._read(stored.to(self._device)), self._task)
        return self._method.predict(self._net, x, self._config).float()

    def _read(self, stored: Tensor) -> Tensor:
        """Stored samples as `harness.data.loader` feeds them: (B, C, H, W), or (T, B, P, H, W) of events."""
        if self._task.temporal:
            x = resized(stored, self._size) if self._size else stored
            return x.transpose(0, 1).float().contiguous()  # T B P H W
        return stored.float().mul_(self._scale).add_(self._shift)


def _info(described: dict[str, Any]) -> DatasetInfo:
    """The facts of the data that a network and its input depend on."""
    return DatasetInfo(
        title="", shape=tuple(described["shape"]), classes=described["classes"], sizes={},
        mean=tuple(described["mean"]), std=tuple(described["std"]), source="", licence="", citation="",
        stored="events" if described["temporal"] else "pixels",
    )  # fmt: skip


def _load_pyfunc(path: str, model_config: Any = None) -> Network:
    """What MLflow calls."""
    return Network(Path(path), torch.device(os.environ.get("MLFLOW_DEFAULT_PREDICTION_DEVICE") or "cpu"))
