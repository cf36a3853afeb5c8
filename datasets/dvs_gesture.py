"""DVS-Gesture: eleven gestures of 29 people in several lights, before a neuromorphic camera of 128x128 pixels.

As tonic offers it: each gesture cut out of its trial, in milliseconds. Of the official split, people 1 to 23 for
training and 24 to 29 for testing, it holds 1,341 of the 1,342 gestures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.contract import DatasetInfo, Remote, Sample
from harness.formats import events
from harness.formats.lazy import Lazy

SENSOR = 128
NAMES = (
    "hand clapping", "right hand wave", "left hand wave", "right arm clockwise", "right arm counter-clockwise",
    "left arm clockwise", "left arm counter-clockwise", "arm roll", "air drums", "air guitar", "other gestures",
)  # fmt: skip
FOLDERS = {"train": "ibmGestureTrain", "test": "ibmGestureTest"}
INFO = DatasetInfo(
    title="DVS-Gesture",
    shape=(2, SENSOR, SENSOR),
    classes=len(NAMES),
    sizes={"train": 1077, "test": 264},
    mean=(),
    std=(),
    source="https://research.ibm.com/interactive/dvsgesture/",
    licence="CC BY 4.0",
    citation="Amir et al., A low power, fully event-based gesture recognition system, CVPR 2017",
    stored="events",
    names=NAMES,
)
FILES = tuple(
    Remote(
        f"DVSGesture/{FOLDERS[split]}.tar.gz",
        (f"https://figshare.com/ndownloader/files/{number}",),
        f"md5:{md5}",
        gives=(FOLDERS[split],),
    )
    for split, number, md5 in (
        ("train", 38022171, "3a8f0d4120a166bac7591f77409cb105"),
        ("test", 38020584, "56070e45dadaa85fff82e0fbfbc06de5"),
    )
)


def samples(root: Path, split: str, config: Any = None) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test' from `root/DVSGesture/ibmGestureTrain/user<number>_<light>/<class>.npy`
    and `root/DVSGesture/ibmGestureTest/…`.
    """
    folder = root / "DVSGesture" / FOLDERS[split]
    if not folder.is_dir():
        raise FileNotFoundError(f"no {folder.name}/user<number>_<light>/<class>.npy in {folder.parent}")
    files = folder.glob("user*_*/*.npy")
    return Lazy(sorted(files, key=lambda file: (file.parent.name, int(file.stem))), _sample)


def _sample(file: Path) -> Sample:
    return events.read_npy(file), int(file.stem)
