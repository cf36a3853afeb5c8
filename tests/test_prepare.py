import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from harness import ffcv_compat, plugins, prepare
from tests import fake_data

ARRAYS = {"train.images.npy", "train.labels.npy", "test.images.npy", "test.labels.npy"}
BETONS = {"train.beton", "test.beton"}
NEEDS_FFCV = pytest.mark.skipif(ffcv_compat.available() is None, reason="FFCV is not installed")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.delenv("HARNESS_MEMORY_LIMIT", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def options(tmp_path) -> dict:
    return {"path": str(fake_data.image_folder(tmp_path / "images")), "size": 8}


def finished(cache: Path) -> list[Path]:
    return sorted((cache / "prepared").glob("*/manifest.json"))


def test_arrays_hold_the_samples_in_order():
    prepared = prepare.prepare("digits")
    images, labels = np.load(prepared.folder / "test.images.npy"), np.load(prepared.folder / "test.labels.npy")
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
    monkeypatch.delattr(module, "download")
    fake_data.mnist(tmp_path / "data", module, monkeypatch, zipped=True)
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    first = prepare.prepare("mnist")
    monkeypatch.delenv("HARNESS_DATA")
    Path(f"{first.folder}.lock").unlink()
    assert prepare.prepare("mnist") == first
    assert not Path(f"{first.folder}.lock").exists()


def test_whole_thing_is_verified():
    assert prepare.verify(prepare.prepare("digits")) == []


def test_truncated_file_is_found_and_written_again():
    prepared = prepare.prepare("digits")
    file = prepared.folder / "train.images.npy"
    os.truncate(file, 1000)
    assert prepare.verify(prepared) == [f"{file} has 1000 bytes instead of {1437 * 64 + 128}"]
    assert prepare.verify(prepare.prepare("digits")) == []


def test_changed_byte_is_found():
    prepared = prepare.prepare("digits")
    file = prepared.folder / "test.images.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert prepare.verify(prepared) == [f"{file} does not have the checksum it was written with"]


def test_missing_file_is_found_and_written_again():
    prepared = prepare.prepare("digits")
    (prepared.folder / "test.labels.npy").unlink()
    assert prepare.verify(prepared) == [f"{prepared.folder / 'test.labels.npy'} is missing"]
    assert prepare.verify(prepare.prepare("digits")) == []


def test_unreadable_manifest_means_prepare_anew():
    prepared = prepare.prepare("digits")
    (prepared.folder / "manifest.json").write_text("{")
    assert prepare.prepare("digits").fingerprint == prepared.fingerprint


def test_killed_preparation_leaves_nothing_that_looks_finished(options, cache):
    script = f"""
import sys, time
from harness import prepare
def progress(done, total):
    print(done, flush=True)
    time.sleep(100)
prepare.prepare("image_folder", {options!r}, progress=progress)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent)
    assert process.stdout is not None
    assert process.stdout.readline() == b"36\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert finished(cache) == []
    prepared = prepare.prepare("image_folder", options)
    assert prepare.verify(prepared) == []
    assert sorted(path.name for path in (cache / "prepared").iterdir()) == [
        prepared.folder.name,
        f"{prepared.folder.name}.lock",
    ]


def test_failed_preparation_leaves_nothing_that_looks_finished(options, cache):
    (Path(options["path"]) / "test" / "cow" / "005.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"005\.png is not a readable image"):
        prepare.prepare("image_folder", options)
    assert [path.suffix for path in (cache / "prepared").iterdir()] == [".lock"]


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


def test_two_processes_at_once_agree(options):
    script = f'from harness import prepare; print(prepare.prepare("image_folder", {options!r}))'
    command = [sys.executable, "-c", script]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]


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
    monkeypatch.setattr(ffcv_compat, "available", lambda: None)
    whole = prepare.prepare("image_folder", options)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("HARNESS_MEMORY_LIMIT", "100")
    bare = prepare.prepare("image_folder", options)
    assert set(whole.manifest.files) == ARRAYS
    assert bare.manifest.files == {}
    assert bare.fingerprint == whole.fingerprint


def test_arrays_are_added_when_the_limit_is_raised(options, monkeypatch):
    monkeypatch.setattr(ffcv_compat, "available", lambda: None)
    monkeypatch.setenv("HARNESS_MEMORY_LIMIT", "100")
    assert prepare.prepare("image_folder", options).manifest.files == {}
    monkeypatch.delenv("HARNESS_MEMORY_LIMIT")
    prepared = prepare.prepare("image_folder", options)
    assert set(prepared.manifest.files) == ARRAYS
    assert prepare.verify(prepared) == []


def test_without_ffcv_only_arrays_are_written_and_it_is_said(monkeypatch, caplog):
    monkeypatch.setattr(ffcv_compat, "available", lambda: None)
    assert set(prepare.prepare("digits", beton=True).manifest.files) == ARRAYS
    assert "FFCV is not installed" in caplog.text


def test_data_for_memory_do_not_wait_for_ffcv(monkeypatch):
    monkeypatch.setattr(ffcv_compat, "load", lambda: pytest.fail("FFCV was imported"))
    assert set(prepare.prepare("digits").manifest.files) == ARRAYS


@NEEDS_FFCV
def test_ffcv_files_are_added_to_what_is_there():
    before = prepare.prepare("digits")
    after = prepare.prepare("digits", beton=True)
    assert (after.folder, after.fingerprint) == (before.folder, before.fingerprint)
    assert set(after.manifest.files) == ARRAYS | BETONS
    assert prepare.verify(after) == []
    assert prepare.prepare("digits") == after


@NEEDS_FFCV
def test_what_does_not_fit_in_memory_is_written_for_ffcv(options, monkeypatch):
    monkeypatch.setenv("HARNESS_MEMORY_LIMIT", "100")
    assert set(prepare.prepare("image_folder", options).manifest.files) == BETONS


@NEEDS_FFCV
def test_changed_array_is_not_copied_into_an_ffcv_file():
    prepared = prepare.prepare("digits")
    file = prepared.folder / "test.images.npy"
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
