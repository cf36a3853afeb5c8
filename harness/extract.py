"""What tables read of a record, and nothing else: reading ten thousand takes a second, and little memory."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ValidationError, model_validator
from typing_extensions import TypedDict

from harness import record, storage
from harness.record import SCHEMA_VERSION, Cost, EarlyExit, Outcome


class Lap(TypedDict):
    """The one thing about an epoch that tables tell: seconds of training."""

    seconds: float


def _as_one(laps: list[Lap]) -> list[Lap]:
    return [{"seconds": sum(lap["seconds"] for lap in laps)}] if laps else []


def _last(measures: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    return {name: {layer: steps[-1:] for layer, steps in layers.items()} for name, layers in measures.items()}


class Extract(BaseModel):
    """The part of `harness.record.Record` that tables read, under the same names.

    All epochs are one lap; of `convergence` the last step is there, of latencies those at T. What is left out is not
    validated either.
    """

    schema_version: int
    id: str
    trial: dict[str, Any]
    spiking: bool | None = None
    outcome: Outcome
    reason: str | None = None
    selection: Literal["last", "best_validation", "best_test"]
    validation_accuracy: float | None = None
    accuracy: dict[int, float] = {}
    accuracy_top5: dict[int, float] = {}
    early_exit: list[EarlyExit] = []
    convergence: Annotated[dict[str, dict[str, list[float]]], AfterValidator(_last)] = {}
    history: Annotated[list[Lap], AfterValidator(_as_one)] = []
    cost: Cost = Cost()
    data: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    commit: str | None = None
    dirty: bool | None = None
    started: str | None = None
    wall_seconds: float | None = None

    @property
    def train_seconds(self) -> float | None:
        """Training alone, summed over epochs; None without any."""
        return self.history[0]["seconds"] if self.history else None

    @model_validator(mode="after")
    def _keep_latencies_at_the_end(self) -> Self:
        time_steps = self.trial.get("time_steps", 1)
        if latencies := self.cost.latency:
            self.cost.latency = [entry for entry in latencies if entry.time_steps == time_steps]
        return self


def read_all(paths: Iterable[Path]) -> list[Extract]:
    """The extract of every record under the given files and folders, sorted by path.

    Raises ValueError naming the file, as `record.read_all` does.
    """
    files = record.paths(paths)
    return [_parsed(file, content) for file, content in zip(files, storage.contents(files), strict=True)]


def _parsed(file: Path, text: bytes) -> Extract:
    try:
        found = Extract.model_validate_json(text)
    except ValidationError:
        found = None
    if found is None or found.schema_version > SCHEMA_VERSION:
        # Says what is wrong, or reads what only the slower reader takes, such as half a surrogate pair in a text.
        return Extract.model_validate(record.parsed(str(file), text).model_dump())
    return found
