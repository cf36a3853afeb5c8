"""One trial's result: a self-contained JSON file, written once and never edited."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from harness import storage
from harness.patience import patiently

SCHEMA_VERSION = 1

Outcome = Literal["done", "diverged", "failed", "skipped"]


class Epoch(BaseModel):
    """What one epoch of training showed. Accuracies in percent, `seconds` is training time alone."""

    # JSON has no NaN, and a loss that is none must neither become null nor be lost.
    model_config = ConfigDict(ser_json_inf_nan="strings")

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    test_accuracy: float | None = None
    """Present only under the selection rule `best_test`."""
    lr: float
    seconds: float
    evaluation_seconds: float | None = None
    extras: dict[str, float] = {}


class Latency(BaseModel):
    """Measured time of `predict`: milliseconds a sample, after a warm-up, over `repeats` calls."""

    batch_size: int
    time_steps: int
    median_ms: float
    p95_ms: float
    repeats: int
    device: str


class Energy(BaseModel):
    """Estimated energy of one inference. Compute only; the assumptions travel with the figure."""

    nanojoules: float
    mac_picojoules: float
    ac_picojoules: float
    source: str


class Cost(BaseModel):
    """What the network costs. A figure that was not measured is absent, never zero.

    Operations are means over one sample for a whole inference of T steps. `macs` are multiply-accumulates of layers
    fed with real numbers, `synops` the accumulates caused by spikes.
    """

    parameters: int | None = None
    latency: list[Latency] = []
    throughput: float | None = None
    """Training samples a second, over all workers."""
    peak_memory_bytes: int | None = None
    peak_memory_kind: Literal["resident set", "device allocator"] | None = None
    firing_rates: dict[str, float] = {}
    """Layer -> mean fraction of steps in which a neuron spikes."""
    synops: float | None = None
    macs: float | None = None
    energy: Energy | None = None


class Record(BaseModel):
    """Everything known about one trial; `trial` alone is enough to run it again."""

    model_config = ConfigDict(extra="ignore", ser_json_inf_nan="strings")

    schema_version: int = SCHEMA_VERSION
    id: str
    experiment: str
    trial: dict[str, Any]
    """The trial's full configuration: dataset, network, method, settings, time_steps, seed, train, scale."""
    spiking: bool | None = None
    """False for a reference without time steps, such as an ordinary network."""
    outcome: Outcome
    reason: str | None = None
    """Why the outcome is not `done`."""
    selection: Literal["last", "best_validation", "best_test"]
    selected_epoch: int | None = None
    validation_accuracy: float | None = None
    """Percent, at T steps, of the selected weights; what choices are made by."""
    accuracy: dict[int, float] = {}
    """t -> top-1 test accuracy in percent after t of the T steps, from one simulation."""
    test_loss: float | None = None
    test_samples: int | None = None
    history: list[Epoch] = []
    cost: Cost = Cost()
    data: dict[str, Any] = {}
    """Dataset title, fingerprint, sizes of the splits, loader."""
    machine: dict[str, Any] = {}
    versions: dict[str, str] = {}
    commit: str | None = None
    dirty: bool | None = None
    command: str | None = None
    started: str | None = None
    """ISO 8601, UTC."""
    wall_seconds: float | None = None
    restarts: int = 0
    """How often the trial was continued from a checkpoint."""
    micro_batches: int | None = None
    """Parts that each worker's share of a batch was computed in, at the end; absent for one."""
    weights: str | None = None
    """File name of the selected weights, relative to the experiment's `checkpoints/<id>/`."""


def path(folder: Path, trial_id: str) -> Path:
    """Where a trial's record stands inside its experiment's folder."""
    return folder / f"{trial_id}.json"


def write(record: Record, folder: Path) -> Path:
    """Write a record so that it is either whole or not there, and return its path."""
    patiently(lambda: storage.make_folder(folder), str(folder))
    target = path(folder, record.id)
    storage.write_atomic(target, record.model_dump_json(indent=1, exclude_none=True) + "\n")
    return target


def read(file: Path) -> Record:
    """Read one record.

    Raises ValueError naming the file when it is not a record, or one of a newer schema than this version knows.
    """
    return _parsed(file, file.read_bytes())


def of(ids: Iterable[str], folder: Path) -> dict[str, Record]:
    """The records of these trials, by id, as far as there are any: by one listing, and each read once."""
    there = storage.names(folder)
    files = {name: path(folder, name) for name in ids if f"{name}.json" in there}
    return dict(zip(files, _read_all(list(files.values())), strict=True))


def read_all(paths: Iterable[Path]) -> Iterator[Record]:
    """Read every record under the given files and folders, sorted by path.

    Files whose names do not look like a trial's id (tables, plots) are passed over.
    """
    for given in paths:
        if storage.is_file(given):
            yield from _read_all([given])
            continue
        found = storage.files(given, ".json")
        if not found and not storage.exists(given):
            raise ValueError(f"{given}: no such file or folder")
        yield from _read_all([file for file in found if is_id(file.stem)])


def _read_all(files: list[Path]) -> Iterator[Record]:
    for file, content in zip(files, storage.contents(files), strict=True):
        yield _parsed(file, content)


def _parsed(file: Path, text: bytes) -> Record:
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or "schema_version" not in content:
            raise ValueError("not a record (no schema_version)")
        if content["schema_version"] > SCHEMA_VERSION:
            raise ValueError(f"schema version {content['schema_version']}, this harness reads up to {SCHEMA_VERSION}")
        return Record.model_validate(content)
    except (json.JSONDecodeError, ValidationError, ValueError) as error:
        raise ValueError(f"{file}: {str(error).splitlines()[0]}") from error


def is_id(name: str) -> bool:
    """Whether a file's name without its ending looks like a trial's id."""
    return len(name) == 12 and all(letter in "0123456789abcdef" for letter in name)
