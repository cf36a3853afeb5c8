"""ImageNet: 1.3 million photographs in a thousand classes (ILSVRC 2012), read from the extracted official archives.

Stored once at 224x224 pixels: shorter side to 256, then the middle. The official validation images are the test split,
as in every paper, because the labels of the official test images are not public.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.contract import DatasetInfo, Sample
from harness.formats import folders

SHORTER_SIDE, SIZE = 256, 224
INFO = DatasetInfo(
    title="ImageNet",
    shape=(3, SIZE, SIZE),
    classes=1000,
    sizes={"train": 1_281_167, "test": 50_000},
    mean=folders.IMAGENET_MEAN,
    std=folders.IMAGENET_STD,
    source="https://www.image-net.org/challenges/LSVRC/2012/ (needs an account)",
    licence="ImageNet's terms of access: non-commercial research and education",
    citation="Russakovsky et al., ImageNet large scale visual recognition challenge, International Journal of Computer "
    "Vision 115(3), 2015",
    checksums={  # of the archives; of the extracted folders, the number of images is checked
        "ILSVRC2012_img_train.tar": "md5:1d675b47d978889d74fa0da5fadfb00e",
        "ILSVRC2012_img_val.tar": "md5:29b22e2961454d5413ddabcf34fc5622",
    },
)


def samples(root: Path, split: str, config: Any = None) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test' from `root/imagenet/train/<wnid>/` and `root/imagenet/val/<wnid>/`.

    Raises ValueError when there are not as many classes as in ILSVRC 2012.
    """
    folder = root / "imagenet" / ("train" if split == "train" else "val")
    if not folder.is_dir():
        raise FileNotFoundError(f"no {folder.name}/<wnid>/ in {folder.parent}")
    if len(found := folders.classes(folder)) != INFO.classes:
        raise ValueError(f"{folder} has {len(found)} folders of classes instead of {INFO.classes}")
    return folders.images(folders.files(folder), SIZE, SHORTER_SIDE)
