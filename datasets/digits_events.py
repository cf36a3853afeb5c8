"""Digits, events: scikit-learn's 1,797 handwritten digits seen by a simulated event camera; nothing to download.

Each digit, enlarged to 16x16 pixels, moves before a sensor of 20x20 pixels in three saccades of a triangle, 33 ms each
(`harness/formats/event_camera.py`). The split is that of the digits: sorted by class, every fifth is test.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from harness.contract import DatasetInfo, Sample
from harness.formats import digits, event_camera
from harness.formats.event_camera import Camera as Config
from harness.formats.lazy import Lazy

SIDE, SCALE, DURATION_US, PICTURES = 20, 2, 99_000, 12
"""Of the sensor in pixels; of the digit; of the recording; of one saccade, a third of a pixel or so from each other."""
BLACK, WHITE = 0.2, 1.0
"""Intensities on the screen that is looked at."""
INFO = DatasetInfo(
    title="Digits, events",
    shape=(2, SIDE, SIDE),
    classes=10,
    sizes=digits.SIZES,
    mean=(),
    std=(),
    source=f"simulated here from {digits.SOURCE}",
    licence=digits.LICENCE,
    citation=digits.CITATION,
    stored="events",
)


def samples(root: Path, split: str, config: Config) -> Sequence[Sample]:
    """Return the samples of 'train' or 'test'. `root` is not looked at."""
    images = digits.read(split)
    return Lazy(range(len(images)), partial(_seen, config, images, split))


def _seen(config: Config, images: Sequence[Sample], split: str, index: int) -> Sample:
    image, label = images[index]
    times, places = event_camera.saccades(SIDE - SCALE * digits.SIDE, DURATION_US, PICTURES)
    pictures = event_camera.moved(image[0] / 255, places, (SIDE, SIDE), SCALE)
    number = index + (digits.SIZES["train"] if split == "test" else 0)
    return config.record(BLACK + (WHITE - BLACK) * pictures, times, number), label
