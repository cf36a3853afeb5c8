"""Preparing data: what is written, that it is whole or not there, and that one of many writes it."""

import errno
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from harness import lock, plugins
from harness.config import Store
from harness.contract import DatasetInfo
from harness.data import beton, disk, encode, ffcv_compat, prepare, prepared
from harness.data.source import Source
from tests import fake_data

EVENTS = {"temporal": True, "shape": [2, 4, 4], "train": 2500, "test": 40}
"""Options of noise that make recordings, two stretches and a half of them."""

ARRAYS = {"train.images.npy", "train.labels.npy", "test.images.npy", "test.labels.npy"}
BETONS = {"train.beton", "test.beton"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.delenv("HARNESS_MEMORY_LIMIT", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def options(tmp_path) -> dict:
    return {"path": str(fake_data.image_folder(tmp_path / "images")), "size": 8}


def problems(found: prepared.Prepared) -> list[str]:
    return prepared.verify(found.folder, found.manifest)


def finished(cache: Path) -> list[Path]:
    return sorted((cache / "prepared").glob("*/manifest.json"))


def test_arrays_hold_the_samples_in_order():
    found = prepare.prepare("digits")
    images, labels = np.load(found.folder / "test.images.npy"), np.load(found.folder / "test.labels.npy")
    samples = plugins.load("datasets", "digits").samples(Path(), "test")
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    assert np.array_equal(images, np.stack([image for image, _ in samples]))
    assert labels.tolist() == [label for _, label in samples]


def test_second_time_writes_nothing():
    first = prepare.prepare("digits")
    before = {file: file.stat().st_mtime_ns for file in first.folder.iterdir()}
    assert prepare.prepare("digits") == first
    assert {file: file.stat().st_mtime_ns for file in first.folder.iterdir()} == before


def test_second_time_needs_neither_raw_data_nor_a_writable_cache(tmp_path, monkeypatch, cache):
    module = plugins.load("datasets", "mnist")
    fake_data.mnist(tmp_path / "data", module, monkeypatch, zipped=True)
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    first = prepare.prepare("mnist")
    monkeypatch.delenv("HARNESS_DATA")
    monkeypatch.setattr(lock, "held", lambda *_: pytest.fail("something was about to be written"))
    assert prepare.prepare("mnist") == first


def test_whole_thing_is_verified():
    assert problems(prepare.prepare("digits")) == []


def test_truncated_file_is_found_and_written_again():
    found = prepare.prepare("digits")
    file = found.folder / "train.images.npy"
    os.truncate(file, 1000)
    assert problems(found) == [f"{file} has 1000 bytes instead of {1437 * 64 + 128}"]
    assert problems(prepare.prepare("digits")) == []


def test_changed_byte_is_found():
    found = prepare.prepare("digits")
    file = found.folder / "test.images.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert problems(found) == [f"{file} does not have the checksum it was written with"]


def test_missing_file_is_found_and_written_again():
    found = prepare.prepare("digits")
    (found.folder / "test.labels.npy").unlink()
    assert problems(found) == [f"{found.folder / 'test.labels.npy'} is missing"]
    assert problems(prepare.prepare("digits")) == []


def test_unreadable_manifest_means_prepare_anew():
    found = prepare.prepare("digits")
    (found.folder / "manifest.json").write_text("{")
    assert prepare.prepare("digits").fingerprint == found.fingerprint


class Preparing:
    """A process that prepares; `said` is how many samples are done, what it warns of, and at last the fingerprint."""

    def __init__(self, options: dict, *, name: str = "noise", hold_at: int = 10**9, before=lambda: None):
        """At `hold_at` samples it stops for ever."""
        self.end, end = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=_prepare, args=(end, options, name, hold_at, before), daemon=True)
        self.process.start()
        end.close()
        self.said: list = []

    def until(self, is_it) -> None:
        """Listen until something is said of which `is_it(…)`."""
        while not (self.said and is_it(self.said[-1])):
            assert self.end.poll(60), self.said
            self.said.append(self.end.recv())

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(60)

    def finish(self) -> list:
        """Everything that it says; the last is a fingerprint, or the sentence why there is none."""
        self.until(lambda said: isinstance(said, tuple))
        self.process.join(60)
        return self.said


FORK = multiprocessing.get_context("fork")  # a new Python would spend seconds on importing torch, each time


def _prepare(end, options: dict, name: str, hold_at: int, before) -> None:
    def progress(done: int, total: int) -> None:
        end.send(done)
        if done >= hold_at:
            time.sleep(1000)

    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: end.send(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("harness").addHandler(handler)
    before()
    try:
        end.send((prepare.prepare(name, options, progress=progress).fingerprint,))
    except OSError as error:
        end.send((f"{type(error).__name__}: {error}",))


def kill_when_done(process: Preparing, samples: int) -> None:
    process.until(lambda said: said >= samples)
    process.kill()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def undisturbed(tmp_path: Path, monkeypatch, name: str, options: dict) -> dict[str, bytes]:
    """What a preparation writes that nobody interrupts."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("HARNESS_CACHE", str(tmp_path / "undisturbed"))
        return contents(prepare.prepare(name, options).folder)


def test_killed_preparation_of_arrays_starts_anew(options, cache, tmp_path, monkeypatch):
    kill_when_done(Preparing(options, name="image_folder", hold_at=36), 36)
    assert finished(cache) == []
    found = prepare.prepare("image_folder", options)
    assert contents(found.folder) == undisturbed(tmp_path, monkeypatch, "image_folder", options)
    assert [path.name for path in (cache / "prepared").iterdir()] == [found.folder.name]


@pytest.mark.parametrize(("killed_at", "kept"), [(500, 0), (1500, 1024), (2500, 2500), (2520, 2500)])
def test_killed_preparation_goes_on_where_it_was_to_the_same_bytes(killed_at, kept, cache, tmp_path, monkeypatch):
    kill_when_done(Preparing(EVENTS, hold_at=killed_at), killed_at)
    assert finished(cache) == []
    seen: list[int] = []
    found = prepare.prepare("noise", EVENTS, progress=lambda done, total: seen.append(done))
    assert seen[0] == kept
    assert seen[-1] == 2540
    assert contents(found.folder) == undisturbed(tmp_path, monkeypatch, "noise", EVENTS)
    assert [path.name for path in (cache / "prepared").iterdir()] == [found.folder.name]


def test_what_was_written_behind_the_last_mark_does_not_count(cache, tmp_path, monkeypatch):
    kill_when_done(Preparing(EVENTS, hold_at=1500), 1500)
    (partial,) = (cache / "prepared").glob(".*.partial")
    for name in ("train.beton", "train.beton.journal"):
        with (partial / name).open("ab") as file:
            file.write(b'{"done": 2000, "half": 1}\nrubbish')
    assert contents(prepare.prepare("noise", EVENTS).folder) == undisturbed(tmp_path, monkeypatch, "noise", EVENTS)


def toy_images(number: int) -> Source:
    """Whole images of many sizes."""

    def samples(root: Path, split: str) -> Sequence:
        random = np.random.default_rng(len(split))
        sides = random.integers(1, 9, (number, 2))
        return [(random.integers(0, 256, (3, *side), dtype=np.uint8), int(side[0]) % 2) for side in sides]

    sizes = {"train": number, "test": number}
    info = DatasetInfo("toy", (3, 4, 4), 2, sizes, (0.5,) * 3, (0.5,) * 3, "-", "-", "-", stored="images")
    return Source("toy", SimpleNamespace(INFO=info, samples=samples), None, Store(jpeg=0.5))


def test_interrupted_preparation_of_images_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    source = toy_images(1200)

    def interrupt(done: int, total: int) -> None:
        if done > 1300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare.prepare_source(source, progress=interrupt)
    seen: list[int] = []
    found = prepare.prepare_source(source, progress=lambda done, total: seen.append(done))
    assert seen[0] == 1200
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "undisturbed"))
    assert contents(found.folder) == contents(prepare.prepare_source(source).folder)


def test_failed_preparation_leaves_nothing_that_looks_finished(options, cache):
    (Path(options["path"]) / "test" / "cow" / "005.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"005\.png is not a readable image"):
        prepare.prepare("image_folder", options)
    assert list((cache / "prepared").iterdir()) == []


def test_second_of_two_at_once_waits_and_writes_nothing():
    writing, go_on, seen, results = threading.Event(), threading.Event(), [], []

    def hold(done: int, total: int) -> None:
        writing.set()
        assert go_on.wait(60)

    first = threading.Thread(target=lambda: results.append(prepare.prepare("digits", progress=hold)))
    second = threading.Thread(
        target=lambda: results.append(prepare.prepare("digits", progress=lambda done, total: seen.append(done)))
    )
    first.start()
    assert writing.wait(60)
    second.start()
    second.join(0.3)
    assert second.is_alive()
    go_on.set()
    first.join(60)
    second.join(60)
    assert results[0] == results[1]
    assert seen == []


@pytest.mark.parametrize("number", [2, 4])
def test_of_many_processes_one_writes_and_all_get_the_same(number):
    gate = FORK.Event()
    processes = [Preparing(EVENTS, before=gate.wait) for _ in range(number)]
    gate.set()
    said = [process.finish() for process in processes]
    assert {each[-1] for each in said} == {(prepare.prepare("noise", EVENTS).fingerprint,)}
    wrote = [[what for what in each if isinstance(what, int)] for each in said]
    assert sorted(map(len, wrote))[:-1] == [0] * (number - 1)
    assert max(wrote)[-1] == 2540


def test_writer_that_is_killed_is_replaced_by_one_that_waits_and_goes_on(tmp_path, monkeypatch):
    first = Preparing(EVENTS, hold_at=1500)
    first.until(lambda said: said >= 1500)
    second = Preparing(EVENTS)
    second.until(lambda said: said.startswith(f"waiting for process {first.process.pid} on "))
    first.kill()
    said = second.finish()
    assert said[1].endswith(" is gone: taking over")
    assert said[2] == 1024
    assert contents(prepare.prepare("noise", EVENTS).folder) == undisturbed(tmp_path, monkeypatch, "noise", EVENTS)


def test_writer_that_lost_its_lock_stops_and_waits_for_the_one_who_has_it(cache, caplog):
    seen: list[int] = []

    def lose(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 1:
            (held,) = (cache / "prepared").glob("*.lock")
            (mine,) = held.iterdir()
            mine.rename(held / "elsewhere.1.00000000.1")
            threading.Timer(0.5, shutil.rmtree, [held]).start()

    found = prepare.prepare("digits", progress=lose)
    assert seen.count(0) == 2
    assert seen.index(0, 1) <= 1024 // encode.CHUNK + 1
    assert "was taken by process 1 on elsewhere: waiting instead" in caplog.text
    assert problems(found) == []


def test_progress_counts_to_the_end():
    seen: list[tuple[int, int]] = []
    prepare.prepare("digits", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (1797, 1797)
    assert seen == sorted(seen)


def test_changed_folder_is_prepared_anew(options):
    before = prepare.prepare("image_folder", options)
    assert prepare.prepare("image_folder", options) == before
    (Path(options["path"]) / "train" / "ant" / "000.png").rename(Path(options["path"]) / "train" / "ant" / "zzz.png")
    after = prepare.prepare("image_folder", options)
    assert after.folder != before.folder
    assert after.fingerprint != before.fingerprint


def test_options_have_folders_of_their_own(options):
    folders = {prepare.prepare("image_folder", options | {"size": size}).folder for size in (8, 6)}
    assert len(folders) == 2


def test_fingerprint_does_not_depend_on_which_files_exist(options, monkeypatch, tmp_path):
    whole = prepare.prepare("image_folder", options)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("HARNESS_MEMORY_LIMIT", "100")
    bare = prepare.prepare("image_folder", options)
    assert set(whole.manifest.files) == ARRAYS
    assert set(bare.manifest.files) == BETONS
    assert bare.fingerprint == whole.fingerprint


def test_arrays_are_added_when_the_limit_is_raised(options, monkeypatch):
    monkeypatch.setenv("HARNESS_MEMORY_LIMIT", "100")
    assert set(prepare.prepare("image_folder", options).manifest.files) == BETONS
    monkeypatch.delenv("HARNESS_MEMORY_LIMIT")
    found = prepare.prepare("image_folder", options)
    assert set(found.manifest.files) == ARRAYS | BETONS
    assert problems(found) == []


def test_files_for_ffcv_are_written_without_it(monkeypatch):
    monkeypatch.setattr(ffcv_compat, "available", lambda: None)
    monkeypatch.setattr(ffcv_compat, "load", lambda: pytest.fail("FFCV was imported"))
    found = prepare.prepare("digits", beton=True)
    assert set(found.manifest.files) == ARRAYS | BETONS
    file = beton.read(found.folder / "test.beton")
    images, labels = np.load(found.folder / "test.images.npy"), np.load(found.folder / "test.labels.npy")
    assert file.labels.tolist() == labels.tolist()
    assert b"".join(file.payload(index).tobytes() for index in range(len(labels))) == images.tobytes()


def test_ffcv_files_are_added_to_what_is_there():
    before = prepare.prepare("digits")
    after = prepare.prepare("digits", beton=True)
    assert (after.folder, after.fingerprint) == (before.folder, before.fingerprint)
    assert set(after.manifest.files) == ARRAYS | BETONS
    assert problems(after) == []
    assert prepare.prepare("digits") == after


def test_what_does_not_fit_in_memory_is_written_for_ffcv(options, monkeypatch):
    monkeypatch.setenv("HARNESS_MEMORY_LIMIT", "100")
    assert set(prepare.prepare("image_folder", options).manifest.files) == BETONS


def test_changed_array_is_not_copied_into_an_ffcv_file():
    found = prepare.prepare("digits")
    file = found.folder / "test.images.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="does not hold what it did"):
        prepare.prepare("digits", beton=True)


@pytest.mark.parametrize("limit", ["2GB", "-1", "1e9"])
def test_memory_limit_is_a_number_of_bytes(limit, monkeypatch):
    monkeypatch.setenv("HARNESS_MEMORY_LIMIT", limit)
    with pytest.raises(ValueError, match=f"number of bytes, not '{limit}'"):
        prepare.prepare("digits")


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ((np.zeros((1, 8, 8), np.float32), 0), "float32"),
        ((np.zeros((8, 8), np.uint8), 0), r"\(8, 8\)"),
        ((np.zeros((1, 8, 8), np.uint8), 10), "class 10"),
    ],
)
def test_sample_that_breaks_the_promise_is_named(sample, message, monkeypatch):
    module = plugins.load("datasets", "digits")
    monkeypatch.setattr(module, "samples", lambda root, split: [sample] * module.INFO.sizes[split])
    with pytest.raises(ValueError, match=rf"sample 0 of digits 'train'.*{message}"):
        prepare.prepare("digits")


def test_wrong_number_of_samples_is_refused(monkeypatch):
    module = plugins.load("datasets", "digits")
    monkeypatch.setattr(module, "samples", lambda root, split: [])
    with pytest.raises(ValueError, match="0 samples in 'train' instead of 1437"):
        prepare.prepare("digits")


def test_cache_that_cannot_be_written_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cannot write into .*: set HARNESS_CACHE"):
        prepare.prepare("digits")


def test_disk_that_is_too_small_is_noticed_before_anything_is_written(monkeypatch, cache):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    monkeypatch.setattr(encode, "encode", lambda *_: pytest.fail("something was written"))
    with pytest.raises(
        disk.NoSpace, match=r"Digits needs 129\.\d kB, but .*prepared has 1\.0 kB left: .*HARNESS_CACHE"
    ):
        prepare.prepare("digits")


@pytest.mark.parametrize("name", ["digits", "noise"])
def test_disk_that_fills_up_is_one_sentence_and_leaves_nothing_that_looks_finished(name, cache):
    options = EVENTS if name == "noise" else {}
    limited = Preparing(options, name=name, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)))
    (error,) = limited.finish()[-1]
    assert error.startswith(f"NoSpace: no space left in {cache / 'prepared'} (File too large): preparing ")
    assert "HARNESS_CACHE" in error
    assert finished(cache) == []
    assert problems(prepare.prepare(name, options)) == []


def test_full_file_system_is_one_sentence_and_preparing_goes_on_when_there_is_room(tmp_path, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=900k", "none", str(small)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        monkeypatch.setenv("HARNESS_CACHE", str(small))
        with pytest.raises(disk.NoSpace, match=r"noise needs 154\.\d MB, but .* has 9\d\d\.\d kB left"):
            prepare.prepare("noise", {"train": 50_000})
        with pytest.raises(disk.NoSpace, match=r"No space left on device\): preparing noise needs about 3\.\d MB"):
            prepare.prepare("noise", EVENTS | {"train": 8000})
        subprocess.run(["mount", "-o", "remount,size=9m", str(small)], check=True)
        seen: list[int] = []
        found = prepare.prepare("noise", EVENTS | {"train": 8000}, progress=lambda done, total: seen.append(done))
        assert seen[0] >= encode.STRETCH
        assert problems(found) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_other_errors_of_the_disk_are_not_taken_for_a_full_one(tmp_path):
    with pytest.raises(OSError, match="Input/output error") as caught, disk.writing(tmp_path, "it", lambda: "more"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert not isinstance(caught.value, disk.NoSpace)


def test_copy_below_harness_stage_is_read_first(tmp_path, monkeypatch):
    original = prepare.prepare("digits")
    monkeypatch.setenv("HARNESS_STAGE", str(tmp_path / "stage"))
    assert prepare.prepare("digits") == original
    shutil.copytree(original.folder, tmp_path / "stage" / "prepared" / original.folder.name)
    staged = prepare.prepare("digits")
    assert staged.folder.is_relative_to(tmp_path / "stage")
    assert staged.fingerprint == original.fingerprint
    (staged.folder / "test.labels.npy").unlink()
    assert prepare.prepare("digits") == original


def test_file_that_is_a_folder_is_named():
    found = prepare.prepare("digits")
    file = found.folder / "test.labels.npy"
    file.unlink()
    file.mkdir()
    assert problems(found) == [f"{file} is not a file"]
