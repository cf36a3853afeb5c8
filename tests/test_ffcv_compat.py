import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.data import beton, ffcv_compat
from harness.data.readers import Pixels

NEEDS_FFCV = pytest.mark.skipif(ffcv_compat.available() is None, reason="FFCV is not installed")
SHAPE = (1, 4, 4)
PAGE = 1 << 21


def images(number: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, *shape), dtype=np.uint8)


def written(file: Path, stored: np.ndarray, page: int = PAGE) -> Path:
    with beton.Writer(file, beton.array(stored.shape[1:]), len(stored), page) as writer:
        for label, image in enumerate(stored):
            writer.add(image, label)
        writer.finish()
    return file


def readings_alive() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if type(thread).__name__ in ("Epoch", "PageReader")]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """Ninety-six samples."""
    return written(tmp_path_factory.mktemp("ffcv") / "x.beton", images(96))


@pytest.fixture(params=[True, False], ids=["mapped", "pages"])
def reader(file, request) -> ffcv_compat.Reader:
    return ffcv_compat.Reader(file, os_cache=request.param)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """Forty samples on ten pages."""
    stored = images(40, (1, 512, 1000))
    return written(tmp_path_factory.mktemp("ffcv") / "large.beton", stored), stored


class Failing(Pixels):
    """Fails at the third batch."""

    def __call__(self, data, starts, sizes, about, positions, out) -> None:
        if positions.start == 16:
            raise OSError("disk gone")
        super().__call__(data, starts, sizes, about, positions, out)


@pytest.mark.parametrize("missing", ["ffcv", "numba", "cv2", "tqdm"])
def test_ffcv_is_not_available_without_what_it_needs(missing, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    assert ffcv_compat.available() is None


def test_asking_for_what_is_not_installed_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(ffcv_compat, "available", lambda: None)
    ffcv_compat.load.cache_clear()
    with pytest.raises(ValueError, match=r"scripts/install_ffcv\.sh"):
        ffcv_compat.Reader(tmp_path / "x.beton")


@NEEDS_FFCV
def test_samples_come_in_the_order_asked_for(reader):
    stored = images(96)
    wanted = np.random.default_rng(1).permutation(96)[:50]
    batches = [(x.clone(), y) for x, y in reader.read(wanted, 7, Pixels(SHAPE))]
    assert [len(y) for _, y in batches] == [7] * 7 + [1]
    assert torch.cat([y for _, y in batches]).tolist() == wanted.tolist()
    assert np.array_equal(torch.cat([x for x, _ in batches]).numpy(), stored[wanted])
    assert {(x.dtype, y.dtype) for x, y in batches} == {(torch.uint8, torch.int64)}


@NEEDS_FFCV
def test_positions_are_the_places_in_the_order_asked_for(reader):
    seen = []

    class Noting(Pixels):
        def __call__(self, data, starts, sizes, about, positions, out) -> None:
            seen.extend(range(96)[positions])

    list(reader.read(np.arange(50)[::-1], 7, Noting(SHAPE)))
    assert seen == list(range(50))


@NEEDS_FFCV
@pytest.mark.parametrize("os_cache", [True, False])
def test_pages_read_in_any_order_hold_what_was_written(large, os_cache):
    file, stored = large
    reader = ffcv_compat.Reader(file, os_cache=os_cache, threads=2)
    for wanted in (np.random.default_rng(1).permutation(40), np.arange(40)):
        for x, y in reader.read(wanted, 6, Pixels((1, 512, 1000))):
            assert np.array_equal(x.numpy(), stored[y.numpy()])
    assert readings_alive() == []


@NEEDS_FFCV
def test_two_epochs_can_be_read_at_once(reader):
    forth, back = (reader.read(order, 8, Pixels(SHAPE)) for order in (np.arange(96), np.arange(96)[::-1]))
    for (_, first), (_, second) in zip(forth, back, strict=True):
        assert (first + second).tolist() == [95] * 8


@NEEDS_FFCV
@pytest.mark.parametrize("batch_size", [2, 24, 96])  # more batches than are read ahead, as many, one
def test_epoch_left_early_ends_its_threads(reader, batch_size):
    epoch = reader.read(np.arange(96), batch_size, Pixels(SHAPE))
    next(epoch)
    epoch.close()
    assert readings_alive() == []


@NEEDS_FFCV
def test_epoch_left_early_over_many_pages_ends_its_threads(large):
    for batches in (1, 2, 5):
        epoch = ffcv_compat.Reader(large[0], os_cache=False).read(np.arange(40), 1, Pixels((1, 512, 1000)))
        for _ in range(batches):
            next(epoch)
        epoch.close()
        assert readings_alive() == []


@NEEDS_FFCV
def test_failure_in_the_reading_thread_is_raised(reader):
    seen = []
    with pytest.raises(RuntimeError, match="disk gone"):
        seen.extend(y for _, y in reader.read(np.arange(96), 8, Failing(SHAPE)))
    assert len(seen) == 2
    assert readings_alive() == []


@NEEDS_FFCV
def test_page_that_cannot_be_read_is_raised(large, monkeypatch):
    def broken(file, page) -> None:
        raise OSError("input/output error")

    monkeypatch.setattr(ffcv_compat, "_read_into", broken)
    with pytest.raises(RuntimeError, match="input/output error"):
        list(ffcv_compat.Reader(large[0], os_cache=False).read(np.arange(40), 8, Pixels((1, 512, 1000))))
    assert readings_alive() == []


@NEEDS_FFCV
def test_torch_keeps_its_number_of_threads(reader):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        list(reader.read(np.arange(96), 8, Pixels(SHAPE)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@NEEDS_FFCV
def test_global_random_state_is_neither_used_nor_disturbed(reader):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    list(reader.read(np.arange(96), 8, Pixels(SHAPE)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


@NEEDS_FFCV
def test_opening_a_file_changes_no_type_of_numbas(reader):
    import numba

    assert numba.uint8[::1].mutable


@NEEDS_FFCV
def test_samples_larger_than_ffcvs_usual_page_survive(tmp_path):
    stored = images(2, (1, 3000, 3000))
    large = ffcv_compat.Reader(written(tmp_path / "x.beton", stored, beton.page_size(9_000_000)))
    ((x, y),) = large.read(np.array([1, 0]), 2, Pixels((1, 3000, 3000)))
    assert y.tolist() == [1, 0]
    assert np.array_equal(x.numpy(), stored[::-1])


@NEEDS_FFCV
@pytest.mark.slow
def test_second_process_compiles_nothing(file):
    """What is compiled is kept on disk: the time to the first batch is that of importing."""
    code = (
        "import sys, numpy as np, numba; from pathlib import Path; from numba.core import event\n"
        "from harness.data import ffcv_compat; from harness.data.readers import Pixels\n"
        "with event.install_recorder('numba:compile') as compiled:\n"
        "    list(ffcv_compat.Reader(Path(sys.argv[1]), threads=2).read(np.arange(96), 8, Pixels((1, 4, 4))))\n"
        "print(len(compiled.buffer))"
    )
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, env=os.environ)
    assert (run.returncode, run.stdout.strip()) == (0, "0"), run.stderr
