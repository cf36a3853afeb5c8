"""A simulated event camera: what a sensor whose pixels report changes of brightness makes of moving pictures.

Each pixel remembers the logarithm of the intensity that it last reported; when the logarithm is one contrast threshold
above it (below it), the pixel sends an 'on' ('off') event and remembers that level, so a change sends as many events as
it holds thresholds. Lichtsteiner, Posch and Delbruck, IEEE Journal of Solid-State Circuits 43(2), 2008. Between two
pictures the logarithm goes straight, which says when each level is crossed; a pixel that sends nothing in the
refractory period after an event remembers the levels all the same (Rebecq, Gehrig and Scaramuzza, ESIM, CoRL 2018).
Thresholds differ by a fixed pattern, and some events come from noise alone (Hu, Liu and Delbruck, v2e, CVPRW 2021).

Still images are moved before the camera along the sides of a triangle, in the three saccades of Orchard, Jayawant,
Cohen and Thakor, Frontiers in Neuroscience 9, 2015. Departures: at constant speed, without rest between them; and the
sensor has neither latency nor a limit of bandwidth.
"""

from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from harness.formats.events import EVENT

LEAST_SHARE = 0.1
"""Of the threshold, what the pattern leaves of it at least."""


class Camera(BaseModel):
    """The sensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float = Field(0.4, gt=0, description="Change of the natural logarithm of intensity that is an event.")
    mismatch: float = Field(
        0.03, ge=0, description="Standard deviation of the threshold over pixels, as a share of it."
    )
    noise_hz: float = Field(1.0, ge=0, description="Events a second that each pixel sends without a change.")
    refractory_us: int = Field(0, ge=0, description="Microseconds after an event in which its pixel sends no other.")
    seed: int = Field(0, ge=0, description="Another seed, another pattern of thresholds and other noise.")

    def thresholds(self, shape: tuple[int, int]) -> np.ndarray:
        """The threshold of each pixel, (H, W): always the same for one camera."""
        pattern = np.random.default_rng(self.seed).standard_normal(shape)
        return self.threshold * np.maximum(1 + self.mismatch * pattern, LEAST_SHARE)

    def record(self, intensities: np.ndarray, times_us: np.ndarray, sample: int = 0) -> np.ndarray:
        """The events (N,) of type `EVENT` of pictures (F, H, W) seen at ascending times (F,), in the order of time.

        Intensities are above 0, in any unit. `sample` tells apart the noise of recordings by one camera.

        Raises ValueError for an intensity of 0 or less.
        """
        if not (intensities > 0).all():
            raise ValueError(f"intensities are above 0, for their logarithm; the least here is {intensities.min()}")
        shape = intensities.shape[1:]
        logarithms = np.log(intensities).reshape(len(intensities), -1)  # F HW
        changes = _changes(logarithms, times_us, self.thresholds(shape).ravel())
        noise = _noise(self.noise_hz, times_us, shape, np.random.default_rng([self.seed, sample]))
        t, pixel, on = (np.concatenate(each) for each in zip(changes, noise, strict=True))
        order = np.argsort(t, kind="stable")
        found = np.empty(len(t), EVENT)
        found["t"], found["p"] = t[order], on[order]
        found["y"], found["x"] = np.divmod(pixel[order], shape[1])
        return _rested(found, pixel[order], self.refractory_us) if self.refractory_us else found


class Found(NamedTuple):
    """Events in no order."""

    t: np.ndarray
    """Microseconds."""
    pixel: np.ndarray
    """Number among those of the sensor, row by row."""
    on: np.ndarray
    """Whether it became brighter."""


def _changes(logarithms: np.ndarray, times_us: np.ndarray, thresholds: np.ndarray) -> Found:
    """The events of logarithms (F, HW) at times (F,): all levels that each pixel crosses from picture to picture."""
    remembered = logarithms[0].copy()
    parts = [(np.empty(0), np.empty(0, np.int64), np.empty(0, bool))]
    for frame in range(1, len(logarithms)):
        before, after = logarithms[frame - 1], logarithms[frame]
        levels = np.trunc((after - remembered) / thresholds)  # with sign
        levels[after == before] = 0  # where only rounding could say otherwise
        numbers = np.abs(levels).astype(np.int64)
        pixel = np.repeat(np.arange(len(levels)), numbers)  # once for each event
        if not len(pixel):
            continue
        rank = np.arange(len(pixel)) - np.repeat(np.cumsum(numbers) - numbers, numbers) + 1  # 1, 2, … in each pixel
        on = levels[pixel] > 0
        crossed = remembered[pixel] + np.where(on, rank, -rank) * thresholds[pixel]
        share = np.clip((crossed - before[pixel]) / (after - before)[pixel], 0, 1)
        parts.append((times_us[frame - 1] + share * (times_us[frame] - times_us[frame - 1]), pixel, on))
        remembered += levels * thresholds
    return Found(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _noise(rate_hz: float, times_us: np.ndarray, shape: tuple[int, ...], random: np.random.Generator) -> Found:
    """Events that mean nothing: at any time, anywhere, of either polarity."""
    start, end = times_us[0], times_us[-1]
    number = random.poisson(rate_hz * (end - start) / 1e6 * np.prod(shape))
    return Found(
        random.uniform(start, end, number), random.integers(np.prod(shape), size=number), random.random(number) < 0.5
    )


def _rested(found: np.ndarray, pixel: np.ndarray, refractory_us: int) -> np.ndarray:
    """The events that do not come within `refractory_us` after another one of their pixel; given in order of time."""
    by_pixel = np.argsort(pixel, kind="stable")
    sorted_pixels, times = pixel[by_pixel], found["t"][by_pixel]
    starts = np.flatnonzero(np.diff(sorted_pixels, prepend=-1))  # where each pixel's events begin
    numbers = np.diff(starts, append=len(times))
    last = np.full(len(starts), np.iinfo(np.int64).min // 2)
    kept = np.zeros(len(found), bool)
    for rank in range(numbers.max(initial=0)):  # the first event of every pixel, the second, …
        having = np.flatnonzero(numbers > rank)
        at = starts[having] + rank
        sent = times[at] - last[having] >= refractory_us
        last[having[sent]] = times[at[sent]]
        kept[by_pixel[at[sent]]] = True
    return found[kept]


def saccades(size: float, duration_us: int, num_pictures: int) -> tuple[np.ndarray, np.ndarray]:
    """The path of three saccades along a triangle of that width and height in pixels, and back to its start.

    Returns times (F,) in microseconds and places (F, 2), right and down, of F = 3 `num_pictures` + 1 pictures.
    """
    corners = size * np.array([[0, 0], [0.5, 1], [1, 0], [0, 0]])
    done = np.linspace(0, 3, 3 * num_pictures + 1)
    places = np.stack([np.interp(done, np.arange(4), corners[:, axis]) for axis in range(2)], axis=1)
    return done / 3 * duration_us, places


def moved(image: np.ndarray, places: np.ndarray, sensor: tuple[int, int], scale: float) -> np.ndarray:
    """Pictures (F, H, W) of an image (h, w), enlarged `scale` times, with its upper left corner at each place (F, 2).

    Bilinear, and 0 beyond the image. Places are right and down in pixels of the sensor (H, W).
    """
    right, down = (
        _weights(places[:, axis], pixels, given, scale)
        for axis, pixels, given in ((0, sensor[1], image.shape[1]), (1, sensor[0], image.shape[0]))
    )
    return down @ image @ right.transpose(0, 2, 1)


def _weights(places: np.ndarray, pixels: int, given: int, scale: float) -> np.ndarray:
    """How much of each given row makes up each row of the sensor, at places (F,): (F, pixels, given)."""
    seen = (np.arange(pixels) + 0.5 - places[:, None]) / scale - 0.5  # F pixels: where it is in the image
    return np.maximum(0, 1 - np.abs(seen[..., None] - np.arange(given)))
