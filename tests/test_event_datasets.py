"""Event data in the official formats: tonic's own datasets read our archives, and our datasets read the same events."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness import plugins
from harness.contract import Sample
from harness.data.prepare import prepare
from harness.data.source import find
from harness.formats import events
from harness.formats.splits import held_out, part
from tests import event_archives
from tests.event_archives import Archives

TONIC = {"nmnist": "NMNIST", "cifar10_dvs": "CIFAR10DVS", "dvs_gesture": "DVSGesture", "n_caltech101": "NCALTECH101"}
NAMES = sorted(TONIC)
GESTURE = "DVSGesture/ibmGestureTrain/user02_fluorescent_led/1.npy"
SPLIT = {"nmnist", "dvs_gesture"}
"""Those that have an official split."""


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def fake(name: str, data: Path, monkeypatch) -> Archives:
    return getattr(event_archives, name)(data, plugins.load("datasets", name), monkeypatch)


def as_read(name: str, found: np.ndarray) -> np.ndarray:
    """What a reader makes of a recording: N-Caltech101 begins in the corner."""
    found = found.copy()
    for axis in "xy" if name == "n_caltech101" else "":
        found[axis] -= found[axis].min()
    return found


def of_tonic(name: str, data: Path, monkeypatch) -> dict[str, tuple[np.ndarray, object]]:
    """Events and label of each file that tonic's own dataset class unpacks from our archives and reads."""
    tonic = pytest.importorskip("tonic")
    archives = getattr(event_archives, f"{name}_archives")()
    kind = getattr(tonic.datasets, TONIC[name])
    for file, checksum in archives.write(data).items():
        attribute = "file_md5" if name not in SPLIT else "train_md5" if "rain" in file else "test_md5"
        monkeypatch.setattr(kind, attribute, checksum)
    opened = [kind(data, train=train) for train in (True, False)] if name in SPLIT else [kind(data)]
    return {
        str(Path(path).relative_to(data / archives.folder)): dataset[index]
        for dataset in opened
        for index, path in enumerate(dataset.data)
    }


@pytest.mark.parametrize("name", NAMES)
def test_tonic_unpacks_the_archives_and_reads_every_field(name, data, monkeypatch):
    pytest.importorskip("aedat")
    expected = getattr(event_archives, f"{name}_archives")().recordings
    found = of_tonic(name, data, monkeypatch)
    assert found.keys() == expected.keys()
    for path, (got, _) in found.items():
        assert all(np.array_equal(got[field], as_read(name, expected[path])[field]) for field in "xytp")


@pytest.mark.parametrize("name", NAMES)
def test_our_dataset_reads_what_tonic_s_does_from_what_tonic_has_unpacked(name, data, monkeypatch):
    pytest.importorskip("aedat")
    tonics = of_tonic(name, data, monkeypatch)
    module = plugins.load("datasets", name)
    if name == "n_caltech101":
        event_archives.given_out(module, monkeypatch, classes=3)
    samples = find(name, {"stabilize": False} if name == "nmnist" else None).samples()
    ours = [samples[split][index] for split in samples for index in range(len(samples[split]))]
    named = {label: number for number, label in enumerate(sorted({label for _, label in tonics.values()}))}
    theirs = [(events.of_columns(*(got[field] for field in "txyp")), named[label]) for got, label in tonics.values()]
    assert all(got.dtype == events.EVENT for got, _ in ours)
    assert Counter(map(frozen, ours)) == Counter(map(frozen, theirs))


def frozen(sample: Sample) -> tuple[bytes, int]:
    return sample[0].tobytes(), sample[1]


@pytest.mark.parametrize("name", NAMES)
def test_recordings_come_in_the_order_of_their_names_whatever_the_file_system_lists(name, data, monkeypatch):
    fake(name, data, monkeypatch)
    before = [frozen(samples[index]) for samples in find(name).samples().values() for index in range(len(samples))]
    listed = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: reversed(sorted(listed(self, pattern))))
    after = [frozen(samples[index]) for samples in find(name).samples().values() for index in range(len(samples))]
    assert before == after


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("cifar10_dvs", "cat/cifar10_cat_0.aedat4", "19 samples in 'train' instead of 20"),
        ("dvs_gesture", "ibmGestureTest/user24_fluorescent_led/4.npy", "10 samples in 'test' instead of 11"),
        ("n_caltech101", "Caltech101/Faces_easy/image_0003.bin", "28 samples in 'train' instead of 29"),
        ("nmnist", "Test/5/00006.bin", "9 samples in 'test' instead of 10"),
    ],
)
def test_recordings_are_prepared_and_another_number_is_refused(name, missing, message, data, monkeypatch):
    archives = fake(name, data, monkeypatch)
    assert prepare(name).manifest.sizes == find(name).info.sizes
    (data / archives.folder / missing).unlink()
    event_archives.given_out(
        plugins.load("datasets", name), monkeypatch, checksums={"x": "md5:0"}
    )  # to prepare it anew
    with pytest.raises(ValueError, match=f"^{name} has {message}$"):
        prepare(name)


@pytest.mark.parametrize("name", NAMES)
def test_files_are_the_archives_that_tonic_fetches(name):
    tonic = pytest.importorskip("tonic")
    kind = getattr(tonic.datasets, TONIC[name])
    splits = ("train_", "test_") if name in SPLIT else ("",)
    theirs = [
        (
            f"{TONIC[name]}/{getattr(kind, f'{split}filename')}",
            (getattr(kind, f"{split}url"),),
            f"md5:{getattr(kind, f'{split}md5' if split else 'file_md5')}",
        )
        for split in splits
    ]
    assert [(remote.path, remote.urls, remote.checksum) for remote in plugins.load("datasets", name).FILES] == theirs


@pytest.mark.parametrize("name", NAMES)
def test_archives_are_unpacked_to_where_they_are_read(name, data, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA", str(data / "unpacked"))
    archives = fake(name, data / "unpacked", monkeypatch)
    expected = find(name).samples()
    monkeypatch.setenv("HARNESS_DATA", str(data))
    checksums, module = archives.write(data), plugins.load("datasets", name)
    files = [replace(each, checksum=f"md5:{checksums[Path(each.path).name]}") for each in module.FILES]
    monkeypatch.setattr(module, "FILES", tuple(files))
    unpacked = find(name).samples()
    assert sum(map(len, unpacked.values())) == sum(map(len, expected.values()))
    assert frozen(unpacked["train"][3]) == frozen(expected["train"][3])


@pytest.mark.parametrize("name", NAMES)
def test_missing_data_say_where_they_are_looked_for(name, tmp_path, monkeypatch):
    module = plugins.load("datasets", name)
    monkeypatch.delattr(module, "FILES")
    with pytest.raises(FileNotFoundError, match=rf"{name}: no .* in .*data/{TONIC[name]}.*set HARNESS_DATA"):
        find(name).samples()


@pytest.mark.parametrize(
    ("name", "path", "content"),
    [
        ("nmnist", "NMNIST/Train/0/00001.bin", b"1234567"),
        ("nmnist", "NMNIST/Train/0/00001.bin", b""),
        ("n_caltech101", "NCALTECH101/Caltech101/Faces_easy/image_0001.bin", bytes(4)),
        ("cifar10_dvs", "CIFAR10DVS/bird/cifar10_bird_0.aedat4", b"#!AER-DAT4.0\r\n"),
        ("cifar10_dvs", "CIFAR10DVS/bird/cifar10_bird_0.aedat4", b"no AEDAT at all"),
        ("dvs_gesture", GESTURE, b"\x93NUMPY"),
        ("dvs_gesture", GESTURE, event_archives.npy_of(np.ones(7))),
        ("dvs_gesture", GESTURE, event_archives.npy_of(np.ones(7))[:-9]),
    ],
)  # fmt: skip
def test_file_that_is_cut_short_or_something_else_is_named(name, path, content, data, monkeypatch):
    fake(name, data, monkeypatch)
    (data / path).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path} is damaged: "):
        prepare(name)


def test_sizes_are_those_that_the_makers_and_tonic_name():
    assert find("nmnist").info.sizes == {"train": 60_000, "test": 10_000}
    assert find("cifar10_dvs").info.sizes == {"train": 9_000, "test": 1_000}
    assert find("cifar10_dvs", {"split": "random"}).info.sizes == {"train": 9_000, "test": 1_000}
    assert find("dvs_gesture").info.sizes == {"train": 1_077, "test": 264}
    assert sum(find("n_caltech101").info.sizes.values()) == 8_709


def test_stabilised_digits_stay_where_they_are(data, monkeypatch):
    fake("nmnist", data, monkeypatch)

    def drift(options: dict) -> float:
        """How far the events' centre wanders, in pixels, while each saccade lasts."""
        found, _ = find("nmnist", options).samples()["train"][3]
        middles = [found["y"][found["t"] // 15_000 == part].mean() for part in range(7)]  # of the first saccade
        return float(np.ptp(middles))

    assert drift({}) < 0.5 * drift({"stabilize": False})


def test_first_900_are_for_training_by_their_numbers(data, monkeypatch):
    fake("cifar10_dvs", data, monkeypatch)
    samples = find("cifar10_dvs").samples()
    names = {split: [file.stem.rpartition("_")[2] for file in samples[split].items] for split in samples}
    assert names == {"train": ["0", "2"] * 10, "test": ["10"] * 10}
    assert [samples["test"][index][1] for index in range(10)] == list(range(10))


def test_random_split_hangs_on_the_seed_and_on_nothing_else(data, monkeypatch):
    fake("cifar10_dvs", data, monkeypatch)
    monkeypatch.setattr(plugins.load("datasets", "cifar10_dvs"), "TEST_EVERY", 3)

    def testing(options: dict) -> list[Path]:
        samples = find("cifar10_dvs", {"split": "random"} | options).samples()
        train, test = (set(samples[split].items) for split in ("train", "test"))
        assert not train & test
        assert len(train | test) == 30
        assert Counter(file.parent.name for file in test) == dict.fromkeys(event_archives.CIFAR, 1)
        return samples["test"].items

    assert testing({}) == testing({}) == testing({"seed": 0}) != testing({"seed": 1})


def test_seed_without_a_random_split_is_refused():
    with pytest.raises(ValueError, match=r"'seed' belongs to 'split: random'"):
        find("cifar10_dvs", {"seed": 1})


def test_a_tenth_of_every_class_is_held_out():
    labels = np.repeat(np.arange(5), [31, 47, 100, 435, 800])
    for seed in (None, 0, 1):
        test = held_out(labels, 10, seed)
        assert test.sum() == 142  # a tenth of 1,413, rounded up
        assert abs(np.bincount(labels[test]) - np.bincount(labels) / 10).max() < 1
        assert part(labels, test, "test") + part(labels, ~test, "test") != part(labels, test, "train")
        assert Counter(part(labels, test, "test")) + Counter(part(labels, test, "train")) == Counter(labels.tolist())
    assert (held_out(labels, 10, 0) != held_out(labels, 10, 1)).any()


def test_other_number_of_classes_is_refused(data, monkeypatch):
    fake("n_caltech101", data, monkeypatch)
    event_archives.given_out(plugins.load("datasets", "n_caltech101"), monkeypatch, classes=101)
    with pytest.raises(ValueError, match=r"NCALTECH101/Caltech101 has 3 folders of classes instead of 101"):
        find("n_caltech101").samples()


def test_gestures_of_any_number_type_become_microseconds(tmp_path):
    columns = np.array([[5, 6, 1, 70_000], [7, 8, 0, 90_000]])
    for kind in (np.uint32, np.int64, np.float32, np.float64):
        np.save(tmp_path / "1.npy", columns.astype(kind))
        assert events.read_npy(tmp_path / "1.npy").tolist() == [(70_000_000, 5, 6, 1), (90_000_000, 7, 8, 0)]


def test_markers_of_overflowed_time_move_what_comes_after_them(tmp_path):
    pytest.importorskip("tonic")
    content = np.array([[1, 2, 128, 0, 9], [0, 240, 0, 0, 0], [3, 4, 0, 1, 0]], np.uint8)
    (tmp_path / "x.bin").write_bytes(content.tobytes())
    assert events.read_bin(tmp_path / "x.bin").tolist() == [(9, 1, 2, 1), (256 + 8192, 3, 4, 0)]


def test_missing_reader_says_what_to_install():
    with pytest.raises(ValueError, match=r"pip install 'snn-harness\[events\]' no_such_reader"):
        events.need("no_such_reader")


def test_tonic_is_imported_only_where_recordings_are_read():
    code = "import sys, harness; from harness import plugins; from harness.data import source; "
    code += "[source.find(name) for name in plugins.names('datasets') if name != 'image_folder']; "
    code += "sys.exit('tonic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
