"""What a training method and a dataset have to offer, and what the harness hands to them.

A method is a module with four names (see `Method`), a dataset a module with two (see `Dataset`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn


@dataclass(frozen=True)
class Task:
    """What one trial has to learn, as far as a method may know it."""

    shape: tuple[int, int, int]
    """One frame: channels C, height H, width W."""
    classes: int
    """Number of classes, K."""
    time_steps: int
    """Length of the simulation, T."""
    temporal: bool
    """True when the input changes over time (event data), False for a still image shown T times."""
    network: str
    """Name of the architecture, as `harness list networks` prints it."""
    network_options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the architecture that differ from its defaults."""
    start: "Origin | None" = None
    """Whose weights the trial starts from; None: fresh ones."""


@dataclass(frozen=True)
class Origin:
    """The trial that another one starts from."""

    method: str
    settings: Mapping[str, Any]
    """Every hyperparameter of that method."""
    time_steps: int


@dataclass(frozen=True)
class Search:
    """Where a hyperparameter is looked for when an experiment searches instead of listing values."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None


def setting(
    default: Any,
    description: str,
    *,
    unit: str | None = None,
    source: str | None = None,
    search: Search | None = None,
    later: bool = False,
    **bounds: Any,
) -> Any:
    """A hyperparameter: its default, meaning, unit, source and search range in one line.

    `later`: it came when there were records already, and its default is what they did without it. Trials in which it
    has its default keep their id, so those records still stand. `bounds` are pydantic's `gt`, `ge`, `lt`, `le`.
    """
    about = {"unit": unit, "source": source, "search": search.__dict__ if search else None, "later": later or None}
    extra: Any = {key: value for key, value in about.items() if value is not None}
    return Field(default, description=description, json_schema_extra=extra, **bounds)


class MethodConfig(BaseModel):
    """Base of every method's hyperparameters: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class StepOutput:
    """What a training step reports; every tensor detached."""

    loss: Tensor
    """Mean loss of the batch, a scalar."""
    logits: Tensor
    """Class scores that the loss was computed from, of shape (B, K)."""
    extras: Mapping[str, float] = field(default_factory=dict)
    """Anything worth logging (solver iterations, residuals). Logged, never scored."""


Update = Callable[[], None]
"""Given to `train_step`: average gradients over workers, clip, step the optimizer, set gradients to zero."""


@runtime_checkable
class Method(Protocol):
    """A training method: a module in `methods/` with these four names.

    Optional names:

    - `SPIKING = False`: the method has no time steps (an ordinary network); it is planned once, with T = 1;
    - `TRAINED = False`: the method takes its weights over from another one and trains nothing: it needs `start` in the
      experiment file, is planned with 0 epochs, and `train_step` is never called;
    - `MEMORY = "constant"`: the memory of a training step does not grow with T, beyond the input, the scores of each
      step and spikes kept as bits; without it, nothing is claimed;
    - `skip(config, task) -> str | None`: the sentence why this task cannot be done, read before anything starts;
    - `resolve(config, task) -> Config`: fill in settings whose default depends on the task, when the plan is made, so
      that records hold what was really used. Values of a search replace those filled in. Raises ValueError for settings
      that the task does not allow;
    - `start(net, weights, batches, config)`: begin from the trained `weights` (a state dict) of another trial on the
      same architecture (`task.start`), before the optimizer is made; without it, every weight must have a counterpart.
      `batches` iterates once over the training part (at most `limit_batches`), x as in `train_step` but shuffled once
      and not augmented, for calibration. Called in eval mode under `no_grad`, alike on every worker; all that it
      decides must be in the net's state dict. Raises ValueError that names every weight which has no counterpart
      (`models/transfer.py`);
    - `param_groups(net, config) -> list[dict]`: groups for the optimizer, in torch's format;
    - `REDUCE = "explicit"`: gradients are averaged over workers in `update()` rather than by DDP's hooks. Needed when
      gradients do not come from one backward pass through `net.forward` per update;
    - `updates_once(config) -> bool`: whether a step calls `update` once, behind all gradients; without it, it does.
      Only then can a batch be computed in parts (`train.micro_batches`): `train_step` is called for each of them, and
      all but the last call of `update` do nothing, so that gradients add up;
    - `scores_differ(config) -> str | None`: the sentence why the logits of a step are not `predict`'s scores at T even
      without dropout and with norms on running statistics; without it, they are;
    - `convergence(net, x, config) -> Mapping[str, Mapping[str, Tensor]]`: what the method's theory says vanishes as T
      grows, measured on a batch as for `predict`: measure ('representation_error') -> layer -> values of shape (T,),
      detached, entry t - 1 after t steps. Recorded, never scored;
    - `EXACT`: settings (a dict) with which an iterative computation is exact to rounding, for checks of gradients.

    `harness check METHOD` runs checks of all this (`harness/conformance/`).
    """

    Config: ClassVar[type[MethodConfig]]

    @staticmethod
    def build(config: Any, task: Task) -> nn.Module:
        """Return the network on the CPU, freshly initialised from torch's global generator."""

    @staticmethod
    def train_step(net: nn.Module, x: Tensor, y: Tensor, config: Any, update: Update) -> StepOutput:
        """Learn from one batch: fill `p.grad` of every parameter and call `update()`.

        Gradients are those of the mean over the batch. They are added to `p.grad` where it is there already, as
        autograd does: then this is one of several parts of a batch.

        `x` is float of shape (T, B, C, H, W): normalised, for a still image a view that repeats it T times without a
        copy; it must not be written to. `y` is int64 of shape (B,) or, under label smoothing, class probabilities of
        shape (B, K): torch's `cross_entropy` takes both. `net` may be wrapped in DistributedDataParallel, so the
        forward pass goes through `net(x)`.
        """

    @staticmethod
    def predict(net: nn.Module, x: Tensor, config: Any) -> Tensor:
        """Return class scores of shape (T, B, K): entry t - 1 is the decision after t steps.

        Called in eval mode under `no_grad`; must be repeatable and must not mix samples.
        """


Stored = Literal["pixels", "images", "events"]
"""What a sample of a dataset is:

- pixels: uint8 of `shape` (C, H, W), the same for all;
- images: uint8 (3, h, w), RGB of any size, to be cropped to `shape` when it is read;
- events: a structured array with the integer fields t (microseconds), x, y and p (polarity, 0 off, 1 on), which become
  frames when they are read.
"""


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about a dataset that the harness and its records need."""

    title: str
    """The name that tables print, such as 'CIFAR-10'."""
    shape: tuple[int, int, int]
    """What a network gets at one time step: channels C, height H, width W. Of events: the camera's, (2, H, W)."""
    classes: int
    sizes: Mapping[str, int]
    """Number of samples of the splits 'train' and 'test'."""
    mean: tuple[float, ...]
    """Mean of each channel of the training images, in units of [0, 1]; empty for events, which are counted."""
    std: tuple[float, ...]
    source: str
    """Where the official files are, for a reader."""
    licence: str
    citation: str
    checksums: Mapping[str, str] = field(default_factory=dict)
    """File name -> checksum ('md5:…' or 'sha256:…') of the official files."""
    stored: Stored = "pixels"
    """What a sample is."""
    centre: float = 0.875
    """Of whole images: the part of the shorter side that evaluation looks at, in the middle (224 of 256 pixels)."""
    names: tuple[str, ...] = ()
    """What the classes are called, in their order; empty where they are only numbered."""

    @property
    def temporal(self) -> bool:
        """Whether samples change over time."""
        return self.stored == "events"


@dataclass(frozen=True)
class Remote:
    """An official file that can be downloaded; `harness/data/download.py` fetches, checks and unpacks it."""

    path: str
    """Where it stands below the root of raw data, such as 'MNIST/raw/train-images-idx3-ubyte.gz'."""
    urls: tuple[str, ...]
    """Where it is to be had; tried one after the other."""
    checksum: str
    """'md5:…' or 'sha256:…' of the file as it is downloaded."""
    gives: tuple[str, ...] = ()
    """Of an archive (.zip, .tar, .tar.gz, .tgz; archives inside it are unpacked, too): the files and folders in it that
    are wanted, which come to stand beside it; the archive then goes. Empty: the file is used as it is."""


Sample = tuple[np.ndarray, int]
"""Pixels, a whole image, or events; and the number of its class. See `Stored`."""


@runtime_checkable
class Dataset(Protocol):
    """A dataset: a module in `datasets/` with these two names.

    Optional names:

    - `Config`: a pydantic model of options that stand beside `name` in the experiment file; then `samples` takes the
      model as its third argument and `info(root, config) -> DatasetInfo` replaces `INFO` where it depends on them;
    - `READING`: the names of options that change how samples are read and shown, but not the samples themselves;
    - `FILES: tuple[Remote, ...]`: the official files that `samples` reads, where they can be had by anybody;
    - `download(root)`: instead of `FILES` where a file behind an address is not enough: fetch what `samples` reads into
      `root`, and check it.
    """

    INFO: ClassVar[DatasetInfo]

    @staticmethod
    def samples(root: Path, split: str, config: Any = None) -> Sequence[Sample]:
        """Return the samples of 'train' or 'test', read lazily, always in the same order.

        Raises FileNotFoundError, naming the folder and what is expected there, when the files are missing.
        """
