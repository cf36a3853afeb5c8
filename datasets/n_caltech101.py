"""N-Caltech101: 8,709 photographs of Caltech101 seen by a neuromorphic camera that makes three saccades.

100 classes of objects, and BACKGROUND_Google as one more, as tonic has it; the original's 'Faces' was left out by the
makers. Recordings differ in size, up to 240x180 pixels; each begins in the upper left corner, as tonic moves them.
There is no official split: a tenth of each class is for testing, which `seed` decides.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from harness.contract import DatasetInfo, Remote, Sample
from harness.formats import events, folders
from harness.formats.lazy import Lazy
from harness.formats.splits import held_out, part

TEST_EVERY = 10
INFO = DatasetInfo(
    title="N-Caltech101",
    shape=(2, 180, 240),
    classes=101,
    sizes={"train": 7838, "test": 871},
    mean=(),
    std=(),
    source="https://www.garrickorchard.com/datasets/n-caltech101",
    licence="CC BY 4.0",
    citation="Orchard, Jayawant, Cohen and Thakor, Converting static image datasets to spiking neuromorphic datasets "
    "using saccades, Frontiers in Neuroscience 9, 2015",
    stored="events",
)
FILES = (
    Remote(
        "NCALTECH101/N-Caltech101-archive.zip",
        (
            "https://data.mendeley.com/public-files/datasets/cy6cvx3ryv/files/36b5c52a-b49d-4853-addb-a836a8883e49/"
            "file_downloaded",
        ),
        "md5:66201824eabb0239c7ab992480b50ba3",
        gives=("Caltech101",),
    ),
)


class Config(BaseModel):
    """Which recordings are for testing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, description="Another seed, another tenth of each class for testing.")


def samples(root: Path, split: str, config: Config) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test' from `root/NCALTECH101/Caltech101/<class>/image_<number>.bin`.

    Raises ValueError when there are not as many classes as in N-Caltech101.
    """
    folder = root / "NCALTECH101" / "Caltech101"
    if not folder.is_dir():
        raise FileNotFoundError(f"no {folder.name}/<class>/*.bin in {folder.parent}")
    classes = folders.classes(folder)
    if len(classes) != INFO.classes:
        raise ValueError(f"{folder} has {len(classes)} folders of classes instead of {INFO.classes}")
    files = [(file, label) for label, name in enumerate(classes) for file in sorted((folder / name).glob("*.bin"))]
    test = held_out([label for _, label in files], TEST_EVERY, config.seed)
    return Lazy(part(files, test, split), _sample)


def _sample(entry: tuple[Path, int]) -> Sample:
    file, label = entry
    found = events.read_bin(file)
    with events.naming(file):
        for axis in "xy":
            found[axis] -= found[axis].min()
    return found, label
