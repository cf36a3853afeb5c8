"""Figures from papers, with where they come from and how far that was checked."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from yaml import YAMLError

import harness
from harness.experiment_file import parse


class Published(BaseModel):
    """One row of a paper's results. Accuracies in percent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    """As the dataset's title is printed: 'CIFAR-10'."""
    network: str
    method: str
    neuron: str | None = None
    time_steps: int | None = Field(ge=1)
    """None where the source does not say."""
    accuracy: float = Field(gt=0, le=100)
    std: float | None = Field(None, ge=0)
    selection: Literal["last", "best_validation", "best_test", "unknown"]
    """Which epoch was reported; 'unknown' where neither paper nor code says."""
    augmentation: str | None = None
    """Of training data, in the words of `harness.quoted.augmentation`: 'crop, flip', or 'none'; None: not known."""
    evidence: Annotated[str, Field(pattern=r"^(first-hand|second-hand: .+|unverified: .+)$")]
    """'first-hand': read at the authors'; 'second-hand: …': as quoted there; 'unverified: …': nowhere read."""
    source: str
    """arXiv id and table, or the authors' repository."""
    note: str | None = None

    @property
    def name(self) -> str:
        """The method with its neuron, as tables and plots print it."""
        return f"{self.method} ({self.neuron})" if self.neuron else self.method

    @property
    def is_verified(self) -> bool:
        """Whether the figure was read somewhere at all."""
        return not self.evidence.startswith("unverified")


def read(path: Path, *, unverified: bool = False) -> list[Published]:
    """Every published row of a YAML file or of the files in a folder; none when the folder is not there.

    Rows that nobody has read anywhere are left out unless asked for. Raises ValueError naming the file.
    """
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path] if path.exists() else []
    return [row for file in files for row in _rows(file) if unverified or row.is_verified]


def shipped(*, unverified: bool = False) -> list[Published]:
    """The rows that come with this installation, if it has any."""
    folders = [Path(folder) / "results" / "published" for folder in harness.__path__]
    return [row for folder in folders for row in read(folder, unverified=unverified)]


def of_dataset(rows: Iterable[Published], title: str) -> list[Published]:
    """The rows of one dataset, or of the one that it is a variant of, sorted by network, method, neuron and T."""
    found = {row for row in rows if is_same_data(row.dataset, title)}
    return sorted(found, key=lambda row: (row.network, row.method, row.neuron or "", row.time_steps or 0, repr(row)))


def is_same_data(printed: str, ours: str) -> bool:
    """Whether a paper's dataset is ours, or what ours is a variant of: 'CIFAR-10' and 'CIFAR-10 (JPEG)'."""
    return is_same_name(printed, ours) or is_same_name(printed, ours.split(" (")[0])


def is_same_name(printed: str, ours: str) -> bool:
    """Whether two names differ in case and punctuation only: 'PreAct-ResNet-18' and 'preact_resnet18'."""
    return _letters(printed) == _letters(ours)


def is_same_method(row: Published, method: str) -> bool:
    """Whether a published row is of this method or a variant of it: 'OTTT_A' is of 'ottt'."""
    return _first_word(row.method) == _first_word(method)


def _rows(file: Path) -> list[Published]:
    try:
        content = parse(file.read_text())
        return TypeAdapter(list[Published]).validate_python(content["rows"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{file}: rows.{where}: {first['msg']}") from error
    except (TypeError, KeyError, YAMLError) as error:
        raise ValueError(f"{file}: expected a mapping with the key 'rows'") from error


@cache
def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


@cache
def _first_word(name: str) -> str:
    return re.split(r"[\W_]", name)[0].casefold()
