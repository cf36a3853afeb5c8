"""CIFAR-100: 60,000 colour photographs of 32x32 pixels in a hundred classes, read from the official batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.contract import DatasetInfo, Remote, Sample
from harness.formats import cifar

NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
INFO = DatasetInfo(
    title="CIFAR-100",
    shape=cifar.SHAPE,
    classes=100,
    sizes={"train": 50_000, "test": 10_000},
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    source="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="not stated",
    names=tuple(NAMES.split()),
    citation="Krizhevsky, Learning multiple layers of features from tiny images, technical report, "
    "University of Toronto, 2009",
    checksums={
        "train": "md5:16019d7e3df5f24257cddd939b257f8d",
        "test": "md5:f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
)
ARCHIVE = "cifar-100-python.tar.gz"
FILES = (
    Remote(
        ARCHIVE,
        (f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",),
        "md5:eb9058c3a382ffc7106e4002c42a8d85",
        gives=("cifar-100-python",),
    ),
)


def samples(root: Path, split: str, config: Any = None) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test', with their fine labels, from `root/cifar-100-python`."""
    return cifar.Images([root / "cifar-100-python" / split], "fine_labels", INFO.checksums)
