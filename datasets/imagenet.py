"""ImageNet: 1.3 million photographs in a thousand classes (ILSVRC 2012), read from the official archives or extracted.

The official validation images are the test split, as in every paper, because the labels of the official test images
are not public. Classes are numbered in the order of their names (wnids), as everybody does.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from harness.contract import DatasetInfo, Sample
from harness.formats import folders, imagenet
from harness.formats.lazy import Listed

INFO = DatasetInfo(
    title="ImageNet",
    shape=(3, 224, 224),
    classes=1000,
    sizes={"train": 1_281_167, "test": 50_000},
    mean=folders.IMAGENET_MEAN,
    std=folders.IMAGENET_STD,
    source="https://www.image-net.org/challenges/LSVRC/2012/ (needs an account)",
    licence="ImageNet's terms of access: non-commercial research and education",
    citation="Russakovsky et al., ImageNet large scale visual recognition challenge, International Journal of Computer "
    "Vision 115(3), 2015",
    checksums={  # of the archives; the number of images is checked, which is quicker
        "ILSVRC2012_img_train.tar": "md5:1d675b47d978889d74fa0da5fadfb00e",
        "ILSVRC2012_img_val.tar": "md5:29b22e2961454d5413ddabcf34fc5622",
    },
    stored="images",
)
READING = ("size", "centre")


class Config(BaseModel):
    """How images are shown to a network; one prepared file serves all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(INFO.shape[1], ge=1, description="Pixels of a side.")
    centre: float = Field(INFO.centre, gt=0, le=1, description="Part of the shorter side that evaluation looks at.")


def info(root: Path, config: Config) -> DatasetInfo:
    """The facts as the options say."""
    return replace(INFO, shape=(3, config.size, config.size), centre=config.centre)


def samples(root: Path, split: str, config: Config) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test' from the folder `imagenet` or, where there is none, from `root`.

    There, `train/<wnid>/` and `val/<wnid>/`, or ILSVRC2012_img_train.tar, and ILSVRC2012_img_val.tar beside
    ILSVRC2012_devkit_t12.tar.gz. Raises ValueError when classes or numbers of images are not those of ILSVRC 2012.
    """
    base, part = root / "imagenet" if (root / "imagenet").is_dir() else root, "train" if split == "train" else "val"
    imagenet.find(base, part)
    return Listed(partial(_listed, base, part, split))


def _listed(base: Path, part: str, split: str) -> Sequence[Sample]:
    files = imagenet.images(base, part)
    if len(files) != INFO.sizes[split]:
        raise ValueError(f"{imagenet.find(base, part)} has {len(files)} images instead of {INFO.sizes[split]}")
    if part == "val" and (uneven := imagenet.uneven(files)):
        raise ValueError(f"{imagenet.find(base, part)} has {uneven}")
    return folders.whole_images(files, mixed=split == "train")
