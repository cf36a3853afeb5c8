"""Files in official formats, generated here and read back; events against counting them one by one."""

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import plugins
from harness.formats import cifar, events
from harness.source import find
from tests import fake_data
from tests.tiny import unhurried


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def counted(found: np.ndarray, frame_of, frames: int, size: int) -> np.ndarray:
    """Events per frame, polarity, row and column, one event at a time."""
    counts = np.zeros((frames, 2, size, size), dtype=int)
    for index, event in enumerate(found):
        frame = frame_of(index, event)
        if 0 <= frame < frames:
            counts[frame, event["p"], event["y"], event["x"]] += 1
    return counts


@unhurried
@given(st.integers(0, 300), st.integers(1, 6), st.booleans(), st.integers(0, 99))
def test_frames_of_equal_time_count_every_event(number, frames, binary, seed):
    found = fake_data.events(number, 5, 700, seed=seed)
    expected = counted(found, lambda index, event: event["t"] // 100, frames, 5)
    got = events.by_time(found, frames, 100, 5, binary=binary)
    assert got.dtype == np.uint8
    assert np.array_equal(got, expected > 0 if binary else expected)


@unhurried
@given(st.integers(1, 300), st.integers(1, 6), st.integers(0, 99))
def test_frames_of_equal_count_lose_no_event_and_the_last_takes_the_rest(number, frames, seed):
    found = fake_data.events(number, 5, 700, seed=seed)
    each = max(number // frames, 1)
    expected = counted(found, lambda index, event: min(index // each, frames - 1), frames, 5)
    got = events.by_count(found, frames, 5)
    assert np.array_equal(got, expected)
    if number >= frames:
        assert (got.sum((1, 2, 3))[:-1] == number // frames).all()


def test_events_outside_the_sensor_are_dropped_and_counts_stop_at_255():
    found = fake_data.events(300, 1, 10)
    found["p"] = 1
    found["x"][:20] = 7
    found["y"][20:30] = -1
    frames = events.by_time(found, 1, 10, 1)
    assert frames.tolist() == [[[[0]], [[255]]]]


def test_resized_frames_are_as_bilinear_as_their_unit_allows():
    random = np.random.default_rng(0)
    counts = random.poisson(0.4, (3, 2, 128, 128)).astype(np.float32)
    got = events.resized(counts, 48, 1 / 8) / 8
    at = (np.arange(48) + 0.5) * 128 / 48 - 0.5  # centres of the new pixels among the old ones
    low, share = np.floor(at).astype(int), at % 1
    rows = counts[:, :, low] * (1 - share)[:, None] + counts[:, :, low + 1] * share[:, None]
    expected = rows[..., low] * (1 - share) + rows[..., low + 1] * share
    assert np.abs(got - expected).max() <= 1 / 16 + 1e-6
    assert np.array_equal(events.resized(counts, 128, 1 / 8) / 8, counts)


def test_nmnist_is_read_by_tonic_and_binned(data, monkeypatch):
    pytest.importorskip("tonic")
    found = fake_data.nmnist(data, plugins.load("datasets", "nmnist"), monkeypatch)
    options = {"frames": 10, "window_us": 2500, "binary": False, "stabilize": False}
    frames, label = find("nmnist", options).samples()["train"][-1]
    assert label == 9
    assert np.array_equal(frames, counted(found["train"][-1], lambda _, event: event["t"] // 2500, 10, 34))


def test_nmnist_as_in_the_paper_is_binary_and_follows_the_saccades(data, monkeypatch):
    pytest.importorskip("tonic")
    fake_data.nmnist(data, plugins.load("datasets", "nmnist"), monkeypatch)
    info = find("nmnist").info
    assert info.sample_shape == (30, 2, 34, 34)
    still, _ = find("nmnist").samples()["test"][0]
    moving, _ = find("nmnist", {"stabilize": False}).samples()["test"][0]
    assert still.max() == 1
    assert not np.array_equal(still, moving)


def test_recordings_of_dvs_are_split_by_their_numbers_in_each_class(data, monkeypatch):
    fake_data.cifar10_dvs(data, plugins.load("datasets", "cifar10_dvs"), monkeypatch)
    samples = find("cifar10_dvs").samples()
    names = {split: [file.stem.rpartition("_")[2] for file in samples[split].items] for split in samples}
    assert names == {"train": ["0", "2"] * 10, "test": ["10"] * 10}
    assert [label for _, label in samples["test"]] == list(range(10))


@pytest.mark.skipif(importlib.util.find_spec("aedat") is None, reason="the package aedat is not installed")
def test_aedat4_is_read_by_tonic(data, monkeypatch):
    module = plugins.load("datasets", "cifar10_dvs")
    fake_data.cifar10_dvs(data, module, monkeypatch)
    found = module.read(data / "CIFAR10DVS" / "bird" / "cifar10_bird_2.aedat4")
    expected = fake_data.events(400, 128, 1_300_000, seed=202)
    assert all(np.array_equal(found[name], expected[name]) for name in "xytp")


def test_missing_reader_says_what_to_install():
    with pytest.raises(ValueError, match=r"pip install 'snn-harness\[events\]' no_such_reader"):
        events.need("no_such_reader")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_from_files_that_python_2_has_pickled(name, data, monkeypatch):
    arrays = fake_data.cifar(data, plugins.load("datasets", name), monkeypatch)
    image, label = find(name).samples()["test"][3]
    assert np.array_equal(image.ravel(), arrays["test" if name == "cifar100" else "test_batch"][3])
    assert type(label) is int


def test_file_with_other_content_is_named(data, monkeypatch):
    fake_data.cifar(data, plugins.load("datasets", "cifar10"), monkeypatch)
    (data / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"")
    with pytest.raises(ValueError, match="data_batch_2 is damaged"):
        len(find("cifar10").samples()["train"])


def test_pickle_that_would_run_code_is_refused(tmp_path):
    file = tmp_path / "data_batch_1"
    file.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(pickle.UnpicklingError, match=r"os\.system"):
        cifar.read(file, fake_data.md5(file.read_bytes()))


def test_imagenet_with_other_classes_is_refused(data):
    fake_data.image_folder(data / "imagenet").joinpath("test").rename(data / "imagenet" / "val")
    with pytest.raises(ValueError, match="has 3 folders of classes instead of 1000"):
        find("imagenet").samples()
