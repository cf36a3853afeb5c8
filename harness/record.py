"""One trial's result: a self-contained JSON file, written once and never edited."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from harness import storage
from harness.patience import patiently

SCHEMA_VERSION = 2
"""2: top-5 accuracy, early exit, operations as NeuroBench counts them, memory accesses, convergence."""

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
    """Measured time of `predict`: milliseconds a sample, after a warm-up, over `repeats` synchronised calls.

    A call simulates `time_steps` steps, which may be fewer than the network was trained for.
    """

    batch_size: int
    time_steps: int
    median_ms: float
    p95_ms: float
    p99_ms: float | None = None
    repeats: int
    device: str
    state: dict[str, float | str] = {}
    """What else the machine was doing: load, clock rate, temperature, as far as it says (`harness/latency.py`)."""

    @property
    def throughput(self) -> float:
        """Samples a second."""
        return 1000 / self.median_ms


class Operations(BaseModel):
    """Synaptic operations of one inference of all T steps, mean over samples, as NeuroBench defines and spells them.

    An operation is effective when neither the activation nor the weight is zero; it is an accumulate when the layer's
    input is spikes, else a multiply-accumulate. Biases are not counted.
    """

    Effective_MACs: float
    Effective_ACs: float
    """Also called SynOps."""
    Dense: float
    """What the same layers would cost if nothing were zero."""


class Energy(BaseModel):
    """Estimated energy of one inference, mean over samples. The assumptions travel with the figure."""

    nanojoules: float
    """Arithmetic only."""
    memory_nanojoules: float | None = None
    """Memory accesses, which come on top."""
    ann_nanojoules: float | None = None
    """Arithmetic of the matched ordinary network: the same layers, one dense pass with real numbers."""
    ann_memory_nanojoules: float | None = None
    mac_picojoules: float
    ac_picojoules: float
    source: str
    memory_source: str | None = None
    """What a memory access was taken to cost and how many an operation needs, and where that is from."""


class Cost(BaseModel):
    """What the network costs. A figure that was not measured is absent, never zero."""

    parameters: int | None = None
    neurons: int | None = None
    """Spiking neurons that one sample meets."""
    latency: list[Latency] = []
    throughput: float | None = None
    """Training samples a second, over all workers."""
    peak_memory_bytes: int | None = None
    peak_memory_kind: Literal["resident set", "device allocator"] | None = None
    firing_rates: dict[str, float] = {}
    """Layer -> mean fraction of steps in which a neuron spikes."""
    dead: dict[str, float] = {}
    """Layer -> fraction of its neurons that no sample made spike."""
    saturated: dict[str, float] = {}
    """Layer -> fraction of its neurons that spiked at every step of every sample."""
    operations: Operations | None = None
    energy: Energy | None = None
    worker_hours: float | None = None
    """Training and evaluation, summed over workers."""
    accelerator_hours: float | None = None
    """The same, summed over the accelerators that the workers held."""
    missing: str | None = None
    """Why figures are absent that every run measures: what went wrong. The trained network is none the worse for it."""
    # Schema 1 had no `operations`: multiply-accumulates of layers fed with real numbers, zeros included, and spikes'.
    synops: float | None = None
    macs: float | None = None


class EarlyExit(BaseModel):
    """Deciding as soon as the likeliest class has at least this probability, at the latest after T steps."""

    confidence: float
    """Softmax probability."""
    mean_time_steps: float
    accuracy: float
    """Top-1 test accuracy in percent."""


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
    accuracy_top5: dict[int, float] = {}
    """The same for the right class being among the five likeliest; absent with five classes or fewer."""
    early_exit: list[EarlyExit] = []
    """From the same simulation, by rising confidence."""
    convergence: dict[str, dict[str, list[float]]] = {}
    """What the method's theory says vanishes with T: measure -> layer -> value after each of the steps 1..T."""
    test_loss: float | None = None
    test_samples: int | None = None
    history: list[Epoch] = []
    cost: Cost = Cost()
    data: dict[str, Any] = {}
    """Dataset title, fingerprint, sizes of the splits, loader."""
    machine: dict[str, Any] = {}
    system: dict[str, list[float]] = {}
    """How busy the machine of the first worker was, at the seconds that stand first; see `harness.vitals`."""
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

    @property
    def train_seconds(self) -> float | None:
        """Training alone, summed over epochs; None without any."""
        return sum(epoch.seconds for epoch in self.history) or None


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
    return parsed(str(file), file.read_bytes())


def of(ids: Iterable[str], folder: Path) -> dict[str, Record]:
    """The records of these trials, by id, as far as there are any: by one listing, and each read once."""
    there = storage.names(folder)
    files = {name: path(folder, name) for name in ids if f"{name}.json" in there}
    return dict(zip(files, _read_all(list(files.values())), strict=True))


def read_all(places: Iterable[Path]) -> Iterator[Record]:
    """Read every record under the given files and folders, sorted by path."""
    return _read_all(paths(places))


def paths(places: Iterable[Path]) -> list[Path]:
    """The files of the records among the given files and below the given folders, sorted by path within each.

    Files in folders whose names do not look like a trial's id (tables, plots) are passed over. Raises ValueError for a
    place that is not there.
    """
    found: list[Path] = []
    for place in places:
        if storage.is_file(place):
            found.append(place)
            continue
        below = storage.files(place, ".json")
        if not below and not storage.exists(place):
            raise ValueError(f"{place}: no such file or folder")
        found += [file for file in below if is_id(file.stem)]
    return found


def find(run: str) -> Path:
    """The file of a record that is given as a path or as a trial's id; raises ValueError where there is none."""
    given = storage.given(run)
    found = [given] if storage.exists(given) else storage.files(Path("results"), f"{given.name}.json")
    if not found:
        raise ValueError(f"{run}: no such record, neither as a path nor as an id under results/")
    return found[0]


def _read_all(files: list[Path]) -> Iterator[Record]:
    for file, content in zip(files, storage.contents(files), strict=True):
        yield parsed(str(file), content)


def parsed(name: str, text: bytes) -> Record:
    """A record from its JSON; raises ValueError as `read` does, with `name` for the file."""
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or "schema_version" not in content:
            raise ValueError("not a record (no schema_version)")
        if content["schema_version"] > SCHEMA_VERSION:
            raise ValueError(f"schema version {content['schema_version']}, this harness reads up to {SCHEMA_VERSION}")
        return Record.model_validate(content)
    except (json.JSONDecodeError, ValidationError, ValueError) as error:
        raise ValueError(f"{name}: {str(error).splitlines()[0]}") from error


def is_id(name: str) -> bool:
    """Whether a file's name without its ending looks like a trial's id."""
    return len(name) == 12 and all(letter in "0123456789abcdef" for letter in name)
