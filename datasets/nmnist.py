"""N-MNIST: MNIST seen by a neuromorphic camera that makes three saccades; events of 34x34 pixels in two polarities."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from harness.contract import DatasetInfo, Remote, Sample
from harness.formats import events
from harness.formats.lazy import Lazy

SIZE = 34
INFO = DatasetInfo(
    title="N-MNIST",
    shape=(2, SIZE, SIZE),
    classes=10,
    sizes={"train": 60_000, "test": 10_000},
    mean=(),
    std=(),
    source="https://www.garrickorchard.com/datasets/n-mnist",
    licence="CC BY-SA 4.0",
    citation="Orchard, Jayawant, Cohen and Thakor, Converting static image datasets to spiking neuromorphic datasets "
    "using saccades, Frontiers in Neuroscience 9, 2015",
    stored="events",
)
MENDELEY = "https://data.mendeley.com/public-files/datasets/468j46mzdv/files"
FILES = tuple(
    Remote(f"NMNIST/{split}.zip", (f"{MENDELEY}/{file}/file_downloaded",), f"md5:{md5}", gives=(split.capitalize(),))
    for split, file, md5 in (
        ("train", "39c25547-014b-4137-a934-9d29fa53c7a0", "20959b8e626244a1b502305a9e6e2031"),
        ("test", "05a4d654-7e03-4c15-bdfa-9bb2bcbea494", "69ca8762b2fe404d9b9bad1103e97832"),
    )
)


class Config(BaseModel):
    """What is done to the recordings before they are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stabilize: bool = Field(True, description="Take the camera's saccades out.")


def samples(root: Path, split: str, config: Config) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test' from `root/NMNIST/Train/<digit>/*.bin` and `root/NMNIST/Test/…`."""
    folder = root / "NMNIST" / split.capitalize()
    if not folder.is_dir():
        raise FileNotFoundError(f"no {folder.name}/<digit>/*.bin in {folder.parent}")
    return Lazy(sorted(folder.glob("[0-9]/*.bin")), partial(_read, config))


def _read(config: Config, file: Path) -> Sample:
    return events.read_bin(file, stabilize=config.stabilize), int(file.parent.name)
