"""Noise in the shape of a dataset, for a trial run where the dataset itself is not there."""

from harness.config import DatasetBlock, Experiment
from harness.contract import DatasetInfo
from harness.data import prepare
from harness.data.source import find, of

NOISE = "noise"
"""The one dataset that the engine knows by name."""
SAMPLES = {"train": 32, "test": 8}
QUICK_BYTES, QUICK_RECORDINGS = 256 << 20, 5000
"""Decoded data of at most this size, and at most as many recordings of events, are prepared within a trial run."""


def replaced(experiment: Experiment) -> tuple[Experiment, DatasetInfo, str | None]:
    """The experiment on its own data or on noise, the facts of either, and the sentence why it is noise.

    Raises ValueError for an unknown dataset or option, FileNotFoundError where not even the shape is known.
    """
    block = experiment.dataset
    source = of(block)
    if prepare.is_prepared(source):
        return experiment, source.info, None
    if not source.is_here():
        reason = "is not here"
    elif _takes_long(source.info):
        reason = f"is not prepared yet (`harness data prepare {block.name}`)"
    else:
        return experiment, source.info, None
    noise = _noise(block, source.info)
    sentence = f"{source.info.title} {reason}: noise in its shape is used, and accuracies mean nothing"
    return experiment.model_copy(update={"dataset": noise}), find(noise.name, noise.options).info, sentence


def _takes_long(info: DatasetInfo) -> bool:
    """Whether preparing is more than a trial run is worth; of events, decoding them, as frames come later."""
    if info.stored == "events":
        return sum(info.sizes.values()) > QUICK_RECORDINGS
    return prepare.decoded_bytes(info) > QUICK_BYTES


def _noise(block: DatasetBlock, info: DatasetInfo) -> DatasetBlock:
    """The same block with noise for its dataset."""
    kept = {key: value for key, value in block.model_dump().items() if key not in block.options}
    options = {
        "shape": info.shape,
        "classes": info.classes,
        "temporal": info.temporal,
        "title": f"noise in the shape of {info.title}",
    }
    if info.stored == "images":
        options["whole"] = True
    return DatasetBlock.model_validate(kept | {"name": NOISE} | SAMPLES | options)
