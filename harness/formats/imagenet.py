"""The archives of ILSVRC 2012 as they are distributed: which image is of which class, without extracting them."""

import io
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from harness.formats import folders, tars
from harness.formats.folders import Labelled

ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
CLASSES, OF_CLASS = 1000, 50
"""Number of classes, and of validation images of each."""
NUMBERED = {0: "n01440764", 1: "n01443537", 207: "n02099601", 388: "n02510455", 999: "n15075141"}
"""A few classes by their numbers, by which a list of classes is recognised."""


def find(base: Path, part: str) -> Path:
    """The folder of classes or the archive of 'train' or 'val'. Raises FileNotFoundError where there is neither."""
    for path in (base / part, base / ARCHIVES[part]):
        if path.exists():
            if path.is_file() and part == "val" and not (base / DEVKIT).is_file():
                raise FileNotFoundError(f"no {DEVKIT} in {base}, which says what is on the images of {path.name}")
            return path
    raise FileNotFoundError(f"neither {part}/<wnid>/ nor {ARCHIVES[part]} in {base}")


def images(base: Path, part: str) -> list[Labelled]:
    """The images of 'train' or 'val' with their classes, numbered in the order of their names, sorted.

    Raises ValueError when the classes are not the thousand of ILSVRC 2012.
    """
    path = find(base, part)
    if path.is_dir():
        names = folders.classes(path)
        _check(path, names)
        return folders.files(path, names)
    if part == "train":
        inner = tars.entries(path)
        _check(path, [PurePosixPath(each.name).stem for each in inner])
        return [(image, label) for label, each in enumerate(inner) for image in tars.entries(path, each)]
    wnids, numbers = ground_truth(base / DEVKIT)
    names = sorted(wnids.values())
    _check(base / DEVKIT, names)
    of = {wnid: label for label, wnid in enumerate(names)}
    found = tars.entries(path)
    if len(found) != len(numbers):
        raise ValueError(f"{path} holds {len(found)} images and {DEVKIT} {len(numbers)} classes of images")
    return [(image, of[wnids[number]]) for image, number in zip(found, numbers, strict=True)]


def uneven(files: list[Labelled]) -> str | None:
    """What is wrong with the number of validation images of a class, if anything."""
    counts = Counter(label for _, label in files)
    label, count = min(counts.items(), key=lambda each: each[1])
    return f"{count} images of class {label} instead of {OF_CLASS}" if count != OF_CLASS else None


def _check(path: Path, names: list[str]) -> None:
    if len(names) != CLASSES:
        raise ValueError(f"{path} has {len(names)} classes instead of {CLASSES}")
    for label, name in NUMBERED.items():
        if names[label] != name:
            raise ValueError(f"{path} has {names[label]} as class {label} instead of {name}: not those of ILSVRC 2012")


def ground_truth(devkit: Path) -> tuple[Mapping[int, str], list[int]]:
    """The name of each numbered class, and the number of each validation image's class, in the order of their names.

    Raises ValueError when the archive does not hold them.
    """
    from scipy.io import loadmat

    try:
        with tarfile.open(devkit) as archive:
            content = {PurePosixPath(each.name).name: each for each in archive if each.isfile()}

            def read(name: str) -> bytes:
                file = archive.extractfile(content[name])
                assert file is not None, "only files are kept"
                return file.read()

            synsets = loadmat(io.BytesIO(read("meta.mat")), squeeze_me=True)["synsets"]
            numbers = [int(line) for line in read("ILSVRC2012_validation_ground_truth.txt").split()]
    except (tarfile.TarError, EOFError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{devkit} is not the development kit of ILSVRC 2012 ({error})") from error
    leaves = synsets[synsets["num_children"] == 0]
    return {
        int(number): str(wnid) for number, wnid in zip(leaves["ILSVRC2012_ID"], leaves["WNID"], strict=True)
    }, numbers
