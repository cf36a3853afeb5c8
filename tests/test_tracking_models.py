"""Which network is the best, and what is kept of it; that MLflow loads it is in test_tracking_server."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import checkpoint, plugins
from harness.config import DatasetBlock
from harness.data import loader
from harness.evaluation import in_time
from harness.plan import Trial
from harness.record import Record
from harness.tracking import models
from harness.tracking.network import Network
from tests import event_archives, fake_data, records


def chosen(*found: Record) -> list[Record | str]:
    return [each if isinstance(each, str) else each.record for each in models.best(found)]


def test_the_best_is_chosen_by_validation_and_never_by_test():
    good = records.made(settings={"v_threshold": 2.0}, accuracy=80.0, validation=95.0)
    lucky = records.made(accuracy=99.0, validation=94.0)
    assert chosen(lucky, good) == [good]


def test_a_configuration_is_chosen_by_its_mean_and_then_its_best_seed():
    even = [records.made(label="even", seed=seed, validation=90.0 + seed) for seed in range(2)]
    uneven = [
        records.made(label="uneven", method="ide", seed=seed, validation=v) for seed, v in enumerate((99.0, 60.0))
    ]
    assert chosen(*even, *uneven) == [even[1]]


def test_a_reference_without_time_steps_is_the_best_only_among_its_like():
    ann = records.made("ann", time_steps=1, validation=99.0, spiking=False)
    spiking = records.made(validation=90.0)
    assert chosen(ann, spiking) == [spiking]
    assert chosen(ann) == [ann]


def test_each_dataset_has_its_best():
    other = records.made(dataset={"name": "mnist"}, data={"title": "MNIST"}, validation=50.0)
    assert len(chosen(records.made(), other)) == 2


def test_nothing_is_chosen_where_nothing_was_validated():
    (sentence,) = chosen(records.made(validation=None), records.made("ide", validation=None))
    assert sentence == "no network is registered for Digits: there is no validation accuracy to choose by"


def test_trials_that_failed_are_no_candidates():
    assert chosen(records.broken("failed")) == []


def network(folder: Path, block: DatasetBlock, task: dict, data: loader.Data) -> Network:
    """A network of random weights, as it is loaded from what was registered."""
    trial = Trial(
        dataset=block, network=task, method="bptt", label="bptt", settings={}, time_steps=3, seed=0, train={},
        selection="last", workers=1,
    )  # fmt: skip
    record = records.made().model_copy(update={"trial": trial.model_dump(mode="json")})
    folder.mkdir()
    described = models.describe(record)
    (folder / models.DESCRIPTION).write_text(json.dumps(described))
    torch.manual_seed(0)
    net = plugins.load("methods", "bptt").build(trial.config(), trial.task(data.info))
    checkpoint.save_weights(folder, net.state_dict())
    found = Network(folder, torch.device("cpu"))
    assert list(next(data._readers["test"].read(np.arange(2), 2))[0].shape) == [2, *described["input"]]
    return found


def recordings(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of N-MNIST for training and two for testing."""
    pytest.importorskip("tonic")
    fake_data.given_out(plugins.load("datasets", "nmnist"), monkeypatch, sizes={"train": 2, "test": 2})
    found = {f"{path}.bin": event_archives.seen(34, 34, 315_000, number) for number, path in enumerate(RECORDINGS)}
    event_archives.Archives("NMNIST", {"": found}, event_archives.bin_file, event_archives.zipped).unpack(root)


RECORDINGS = ("Train/0/00001", "Train/1/00002", "Test/1/00001", "Test/2/00002")


@pytest.mark.parametrize(
    "options",
    [
        {"name": "digits"},
        {"name": "digits", "normalize": {"mean": [0.5], "std": [0.25]}},
        {"name": "nmnist"},
        {"name": "nmnist", "frames": {"downsample": 2, "size": 8, "polarities": 1}},
        {"name": "image_folder"},
    ],
    ids=["pixels", "own constants", "events", "resized events", "images"],
)
def test_a_network_reads_stored_samples_as_the_loader_feeds_them(options, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    if options["name"] == "nmnist":
        recordings(tmp_path / "data", monkeypatch)
    if options["name"] == "image_folder":
        options = options | {"path": str(fake_data.pictures(tmp_path / "pictures")), "size": 16}
    block = DatasetBlock.model_validate({"loader": "auto"} | options)
    data = loader.open_data(block, time_steps=3)
    try:
        net = network(tmp_path / "network", block, {"name": "mlp", "hidden": [16]}, data)
        samples = torch.cat([x for x, _ in data._readers["test"].read(np.arange(data.sizes["test"]), 7)]).numpy()
        assert samples.dtype == np.uint8
        fed = next(data.batches("test", len(samples)))[0]
        with torch.no_grad():
            scores = net._method.predict(net._net, in_time(fed, net._task), net._config)
        for t in (1, 3):
            expected = scores[t - 1].softmax(-1).numpy()
            np.testing.assert_allclose(net.predict(samples, {"time_steps": t}), expected, atol=1e-6, rtol=0)
        assert net.predict(samples[:0]).shape == (0, net._task.classes)
    finally:
        data.close()
