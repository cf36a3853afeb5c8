"""The blocks that say which data are used, how they are kept, and how they are read."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from harness.config.block import Block


class Augment(Block):
    """What is done to training images, in batches on the device; to all frames of a sample alike."""

    LATER = frozenset({"roll", "cutout", "random_resized_crop", "event_drop"})

    crop_padding: int = Field(0, ge=0)
    """Pixels of zero padding before a random crop to the original size; 0: no crop."""
    flip: bool = False
    """Mirror left and right with probability one half."""
    roll: int = Field(0, ge=0)
    """Pixels by which images are shifted cyclically at most, up or down and left or right."""
    cutout: int = Field(0, ge=0)
    """Side in pixels of a square at a random place that is set to the mean (arXiv:1708.04552); 0: none."""
    random_resized_crop: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] | None = None
    """Smallest and largest part of a whole image's area that a random crop takes, with sides of 3:4 to 4:3."""
    event_drop: float = Field(0.0, ge=0, lt=1)
    """Largest fraction of a recording's events that is left out at random; the fraction is drawn, too."""


class Normalize(Block):
    """Constants that images are normalised by instead of the dataset's own, to follow a paper to the letter."""

    mean: tuple[float, ...] = Field(min_length=1)
    """Subtracted from each channel, in units of [0, 1]."""
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    """What each channel is divided by."""


class Store(Block):
    """How whole images are kept in the prepared file; part of its key."""

    max_side: int | None = Field(500, ge=1)
    """Pixels to which the longer side is reduced where it is longer; null: as it is."""
    jpeg: float = Field(1.0, ge=0, le=1)
    """Fraction of the images that are kept as JPEG; the others as pixels: larger, and faster to read."""
    quality: int = Field(90, ge=1, le=100)
    """JPEG quality."""


class Frames(Block):
    """How the events of a recording become T frames, when they are read: one prepared file serves every T."""

    by: Literal["time", "count"] = "time"
    """Frames of equal time, or of equally many events."""
    window_us: int | None = Field(None, ge=1)
    """Microseconds of a frame; what comes after the last is left out. By default the recording in T equal parts."""
    start_us: int = Field(0, ge=0)
    """Microseconds after the first event that are left out."""
    duration_us: int | None = Field(None, ge=1)
    """Microseconds that are looked at; by default the whole recording."""
    binary: bool = False
    """Whether a pixel has spiked, not how often."""
    polarities: Literal[1, 2] = 2
    """Channels: 2 (off, on), or 1, both together."""
    downsample: int = Field(1, ge=1)
    """Side in pixels of the squares whose events are added up; divides the camera's height and width."""
    size: int | None = Field(None, ge=1)
    """Pixels that frames are then resized to, bilinearly, without anti-aliasing."""

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Self:
        if self.window_us is not None and (self.by == "count" or self.duration_us is not None):
            raise ValueError("'window_us' goes with neither 'by: count' nor 'duration_us'")
        return self


class DatasetBlock(Block):
    """Which data; keys that are not named here are options of the dataset itself (`harness list datasets`)."""

    model_config = ConfigDict(extra="allow")
    LATER = frozenset({"normalize", "store", "frames", "order", "os_cache"})

    name: str
    validation: float = Field(0.1, ge=0, lt=1)
    """Fraction of the training samples that is held out to select by; 0, nothing, does not go with selecting by it."""
    split_seed: int = 0
    """Decides which samples are held out; the same for every trial."""
    augment: Augment = Augment()
    normalize: Normalize | None = None
    loader: Literal["auto", "memory", "ffcv", "torch"] = "auto"
    """How batches are fed; all three give the same batches."""
    store: Store = Store()
    """Only for whole images."""
    frames: Frames = Frames()
    """Only for events."""
    order: Literal["random", "quasi_random"] = "random"
    """`quasi_random` shuffles pages of the file, and samples of a few pages: for disks that are slow to seek."""
    os_cache: bool | Literal["auto"] = "auto"
    """Let the operating system keep the file in memory; `auto`: where it fits."""

    @property
    def options(self) -> dict[str, Any]:
        """Options of the dataset itself."""
        return dict(self.model_extra or {})
