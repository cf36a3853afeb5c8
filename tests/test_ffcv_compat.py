import importlib.util
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import ffcv_compat

NEEDS_FFCV = pytest.mark.skipif(ffcv_compat.available() is None, reason="FFCV is not installed")
SHAPE = (1, 4, 4)


def images(number: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, *shape), dtype=np.uint8)


def written(file: Path, stored: np.ndarray) -> Path:
    with ffcv_compat.writer(file, stored.shape[1:], len(stored)) as write:
        for index, image in enumerate(stored):
            write(index, image, index)
    return file


def epochs_alive() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if type(thread).__name__ == "Epoch"]


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> ffcv_compat.Reader:
    """Ninety-six samples, opened once because that compiles code."""
    return ffcv_compat.Reader(written(tmp_path_factory.mktemp("ffcv") / "x.beton", images(96)), SHAPE)


@pytest.mark.parametrize("missing", ["ffcv", "numba", "cv2", "tqdm"])
def test_ffcv_is_not_available_without_what_it_needs(missing, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    assert ffcv_compat.available() is None


def test_asking_for_what_is_not_installed_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(ffcv_compat, "available", lambda: None)
    ffcv_compat.load.cache_clear()
    with pytest.raises(ValueError, match=r"scripts/install_ffcv\.sh"):
        ffcv_compat.Reader(tmp_path / "x.beton", SHAPE)


@pytest.mark.parametrize(
    ("shape", "page"),
    [((1, 8, 8), 1 << 21), ((3, 500, 500), 1 << 22), ((2, 1024, 1024), 1 << 23), ((1, 3, 1 << 28), 1 << 31)],
)
def test_page_holds_samples_of_any_size(shape, page):
    assert ffcv_compat._page_size(shape) == page


def test_sample_that_no_page_holds_is_refused():
    with pytest.raises(ValueError, match="larger than FFCV can store"):
        ffcv_compat._page_size((3, 1 << 15, 1 << 15))


@NEEDS_FFCV
def test_samples_come_in_the_order_asked_for(reader):
    stored = images(96)
    wanted = np.random.default_rng(1).permutation(96)[:50]
    kept = list(reader.read(wanted, 7))
    assert [len(y) for _, y in kept] == [7] * 7 + [1]
    assert torch.cat([y for _, y in kept]).tolist() == wanted.tolist()
    for x, y in reader.read(wanted, 16):
        assert np.array_equal(x.numpy(), stored[y.numpy()])
        assert (x.dtype, y.dtype) == (torch.uint8, torch.int64)


@NEEDS_FFCV
def test_two_epochs_can_be_read_at_once(reader):
    for (_, first), (_, second) in zip(reader.read(np.arange(96), 8), reader.read(np.arange(96)[::-1], 8), strict=True):
        assert (first + second).tolist() == [95] * 8


@NEEDS_FFCV
@pytest.mark.parametrize("batch_size", [2, 24, 96])  # more batches than are read ahead, as many, one
def test_epoch_left_early_ends_its_thread(reader, batch_size):
    epoch = reader.read(np.arange(96), batch_size)
    next(epoch)
    epoch.close()
    assert epochs_alive() == []


@NEEDS_FFCV
def test_failure_in_the_reading_thread_is_raised(reader, monkeypatch):
    ((stage, define), *more), outputs = reader._loader.code
    calls = []

    def failing(**arguments):
        calls.append(1)
        if len(calls) == 3:
            raise OSError("disk gone")
        return stage(**arguments)

    monkeypatch.setattr(reader._loader, "code", ([(failing, define), *more], outputs))
    seen = []
    with pytest.raises(RuntimeError, match="disk gone"):
        seen.extend(y for _, y in reader.read(np.arange(96), 8))
    assert len(seen) == 2
    assert epochs_alive() == []


@NEEDS_FFCV
def test_torch_keeps_its_number_of_threads(reader):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        list(reader.read(np.arange(96), 8))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@NEEDS_FFCV
def test_global_random_state_is_neither_used_nor_disturbed(reader):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    list(reader.read(np.arange(96), 8))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


@NEEDS_FFCV
@pytest.mark.parametrize("shape", [SHAPE, (3, 4, 4)])
def test_file_is_the_same_to_the_byte(tmp_path, shape):
    first, second = (written(tmp_path / name, images(10, shape)).read_bytes() for name in ("a", "b"))
    assert first == second


@NEEDS_FFCV
def test_failure_while_writing_is_raised(tmp_path):
    with ffcv_compat.writer(tmp_path / "x.beton", SHAPE, 3) as write:
        write(0, images(1)[0], 0)
        with pytest.raises(ValueError, match="broadcast"):
            write(1, np.zeros((1, 9, 9), np.uint8), 0)


@NEEDS_FFCV
def test_samples_larger_than_ffcv_usual_page_survive(tmp_path):
    stored = images(2, (1, 3000, 3000))
    large = ffcv_compat.Reader(written(tmp_path / "x.beton", stored), (1, 3000, 3000))
    ((x, y),) = large.read(np.array([1, 0]), 2)
    assert y.tolist() == [1, 0]
    assert np.array_equal(x.numpy(), stored[::-1])
