import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.config import Augment, DatasetBlock
from harness.data import augment, ffcv_compat, loader, order
from harness.data.loader import Data
from harness.data.prepare import prepare
from tests import fake_data

NEEDS_FFCV = pytest.mark.skipif(ffcv_compat.available() is None, reason="FFCV is not installed")
BOTH = Augment(crop_padding=2, flip=True)
PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def folders(cache, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.delenv("HARNESS_MEMORY_LIMIT", raising=False)


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> dict:
    return {"path": str(fake_data.image_folder(tmp_path_factory.mktemp("images") / "all", train=14)), "size": 8}


def open_data(name: str, options: dict | None = None, **block) -> Data:
    return loader.open_data(DatasetBlock.model_validate({"name": name, **(options or {}), **block}))


def labels(data: Data, part: str, batch_size: int, **which) -> list[int]:
    return [int(label) for _, y in data.batches(part, batch_size, **which) for label in y]


def equal(first: Data, second: Data, part: str, batch_size: int, **which) -> bool:
    pairs = zip(first.batches(part, batch_size, **which), second.batches(part, batch_size, **which), strict=True)
    return all(torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in pairs)


@given(
    st.integers(1, 200), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**40), st.integers(0, 1000),
    st.booleans(),
)  # fmt: skip
def test_training_batches_of_all_workers_together_are_those_of_one(num_samples, world, share, seed, epoch, paged):
    batch_size = world * share
    if num_samples < batch_size:
        return
    pages = np.arange(num_samples) // 7 if paged else None
    found = order.training_order(num_samples, batch_size, seed=seed, epoch=epoch, pages=pages)
    assert len(found) == num_samples // batch_size * batch_size
    assert len(set(found)) == len(found)
    shards = [found[rank::world].reshape(-1, share) for rank in range(world)]
    for batch in range(num_samples // batch_size):
        together = {index for shard in shards for index in shard[batch]}
        assert together == set(found[batch * batch_size : (batch + 1) * batch_size])


@given(st.integers(1, 500), st.floats(0, 0.99), st.integers(0, 2**31))
def test_cut_gives_every_sample_to_one_part(num_samples, validation, seed):
    train, held_out = order.cut(num_samples, validation, seed)
    assert sorted([*train, *held_out]) == list(range(num_samples))
    assert len(held_out) == round(validation * num_samples)


@pytest.mark.parametrize("pages", [None, np.arange(300) // 7])
@given(seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_order_depends_on_seed_and_epoch_alone(pages, seed, epoch):
    def drawn(seed: int, epoch: int) -> list[int]:
        return order.training_order(300, 10, seed=seed, epoch=epoch, pages=pages).tolist()

    assert drawn(seed, epoch) == drawn(seed, epoch)
    assert drawn(seed, epoch) != drawn(seed, epoch + 1)
    assert drawn(seed, epoch) != drawn(seed + 1, epoch)


def test_quasi_random_order_needs_few_pages_at_a_time_and_each_once():
    pages = np.random.default_rng(0).permutation(np.arange(10_000) // 100)
    found = pages[order.training_order(10_000, 10, seed=0, epoch=0, pages=pages)]
    first, last = (np.unique(at, return_index=True)[1] for at in (found, found[::-1]))
    last = len(found) - 1 - last
    needed = [((first <= place) & (place <= last)).sum() for place in range(len(found))]
    assert max(needed) <= order.WINDOW + 1
    assert np.median(needed) > order.WINDOW / 2


def test_quasi_random_order_mixes_pages_and_samples():
    pages = np.arange(10_000) // 100
    found = order.training_order(10_000, 100, seed=0, epoch=0, pages=pages)
    assert min(len(set(batch)) for batch in pages[found].reshape(-1, 100)[2:-2]) > order.WINDOW / 2
    assert abs(np.corrcoef(found, np.arange(10_000))[0, 1]) < 0.3


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("part", ["validation", "test"])
def test_evaluation_gives_every_sample_once_over_all_workers(part, world):
    data = open_data("digits")
    alone = [image for x, _ in data.batches(part, 50) for image in x]
    shards = [[image for x, _ in data.batches(part, 50, rank=r, world=world) for image in x] for r in range(world)]
    together = [shards[index % world][index // world] for index in range(len(alone))]
    assert sum(map(len, shards)) == len(alone) == data.sizes[part]
    assert torch.equal(torch.stack(together), torch.stack(alone))


def test_two_workers_see_what_one_sees_augmented_alike():
    data = open_data("digits", augment=BOTH)
    alone = data.batches("train", 64, epoch=3, seed=1)
    halves = [data.batches("train", 64, epoch=3, seed=1, rank=rank, world=2) for rank in range(2)]
    for (x, y), (x0, y0), (x1, y1) in zip(alone, *halves, strict=True):
        assert torch.equal(x, torch.stack([x0, x1], dim=1).flatten(0, 1))
        assert torch.equal(y, torch.stack([y0, y1], dim=1).flatten())


def test_epoch_is_the_same_after_a_restart():
    first, second = open_data("digits", augment=BOTH), open_data("digits", augment=BOTH)
    for epoch in range(3):
        list(first.batches("train", 32, epoch=epoch))
    assert equal(first, second, "train", 32, epoch=3)


def test_validation_depends_on_the_split_seed_alone():
    first, other = open_data("digits"), open_data("digits", split_seed=1)
    assert labels(first, "validation", 50) == labels(open_data("digits", augment=BOTH), "validation", 7, seed=5)
    assert labels(first, "validation", 50) != labels(other, "validation", 50)
    assert first.sizes == other.sizes == {"train": 1293, "validation": 144, "test": 360}


def test_training_and_validation_share_no_sample():
    data = open_data("digits", validation=0.3)
    parts = [{image.numpy().tobytes() for x, _ in data.batches(part, 1) for image in x} for part in PARTS[:2]]
    assert not parts[0] & parts[1]


def test_nothing_is_held_out_on_request():
    data = open_data("digits", validation=0)
    assert data.sizes["validation"] == 0
    assert list(data.batches("validation", 10)) == []


def test_last_training_batch_is_full_and_last_evaluation_batch_short():
    data = open_data("digits")
    assert [len(y) for _, y in data.batches("train", 500)] == [500, 500]
    assert [len(y) for _, y in data.batches("test", 100)] == [100, 100, 100, 60]


def test_batches_are_normalised():
    data = open_data("digits", validation=0)
    x, y = next(data.batches("test", 360))
    stored = torch.from_numpy(np.load(prepare("digits").folder / "test.images.npy"))
    expected = (stored / 255 - data.info.mean[0]) / data.info.std[0]
    assert (x.dtype, y.dtype, x.is_contiguous()) == (torch.float32, torch.int64, True)
    torch.testing.assert_close(x, expected)
    everything = torch.cat([x for x, _ in data.batches("train", 1)])
    assert everything.mean().abs() < 1e-3
    assert (everything.std() - 1).abs() < 1e-3


@pytest.mark.parametrize(("padding", "channels"), [(0, 1), (1, 3), (4, 3)])
def test_move_is_what_is_done_image_by_image(padding, channels):
    random = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (20, channels, 6, 9), dtype=torch.uint8, generator=random)
    drawn = torch.randint(0, 2 * padding + 1, (20, 7), generator=random)
    drawn[:, 2] %= 2
    drawn[:, 3:5] -= padding
    moved = augment.move(x, augment.moves(drawn), padding)
    for image, (top, left, flip, down, right, *_), got in zip(x, drawn.tolist(), moved, strict=True):
        large = torch.zeros(channels, 6 + 2 * padding, 9 + 2 * padding, dtype=torch.uint8)
        large[:, padding : padding + 6, padding : padding + 9] = image
        expected = large[:, top : top + 6, left : left + 9]
        expected = expected.flip(-1) if flip else expected
        assert torch.equal(got, expected.roll((down, right), (-2, -1)))


def test_augmentation_uses_every_shift_and_both_sides():
    drawn = augment.draw(5000, Augment(crop_padding=2, flip=True, roll=1, cutout=3), (1, 8, 6), seed=0, epoch=0)
    counts = [np.bincount(column) for column in (drawn + np.array([0, 0, 0, 1, 1, 0, 0])).T]
    assert [len(count) for count in counts] == [5, 5, 2, 3, 3, 8, 6]
    assert all(count.min() > 0.9 * count.mean() for count in counts)


def test_without_augmentation_training_images_are_as_stored():
    data = open_data("digits", validation=0)
    stored = {image.numpy().tobytes() for image in data._readers["train"]._images}
    raw = next(data._readers["train"].read(np.arange(10), 10))[0]
    assert all(image.numpy().tobytes() in stored for image in raw)
    assert not equal(data, open_data("digits", validation=0, augment=BOTH), "train", 32)


def test_augmentation_can_be_left_out_of_a_pass_over_the_training_part():
    augmented, plain = open_data("digits", augment=BOTH), open_data("digits")
    pairs = zip(augmented.batches("train", 64, augmented=False), plain.batches("train", 64), strict=True)
    assert all(torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in pairs)
    assert not equal(augmented, plain, "train", 64)


@pytest.mark.parametrize("kind", ["memory", "torch"])
def test_global_random_state_is_neither_used_nor_disturbed(kind):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = open_data("digits", loader=kind, augment=BOTH)
    one = [x.clone() for x, _ in first.batches("train", 64)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    torch.manual_seed(1)
    assert all(torch.equal(x, z) for x, (z, _) in zip(one, first.batches("train", 64), strict=True))


def test_torch_loader_gives_the_same_with_processes_as_without():
    data, memory = (open_data("digits", loader=kind, augment=BOTH) for kind in ("torch", "memory"))
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            assert equal(data, memory, "train", 128)
            assert equal(data, memory, "test", 100)
    finally:
        torch.set_num_threads(threads)


@NEEDS_FFCV
@pytest.mark.parametrize("name", ["digits", "image_folder"])  # grey, stored as an array; and RGB
def test_three_loaders_give_the_same_tensors(name, options):
    given = options if name == "image_folder" else None
    memory, ffcv, torch_ = (
        open_data(name, given, loader=kind, augment=BOTH, validation=0.2) for kind in ("memory", "ffcv", "torch")
    )
    assert [data.kind for data in (memory, ffcv, torch_)] == ["memory", "ffcv", "torch"]
    assert memory.fingerprint == ffcv.fingerprint == torch_.fingerprint
    for other in (ffcv, torch_):
        for epoch in range(2):
            assert equal(memory, other, "train", 8, epoch=epoch, seed=7)
            assert equal(memory, other, "train", 8, epoch=epoch, rank=1, world=2)
        assert equal(memory, other, "validation", 5)
        assert equal(memory, other, "test", 16, rank=2, world=3)
    next(ffcv.batches("train", 4))  # left early
    assert not [thread for thread in threading.enumerate() if "Epoch" in type(thread).__name__]
    ffcv.close()


@NEEDS_FFCV
def test_ffcv_streams_what_does_not_fit_in_memory(options, monkeypatch):
    monkeypatch.setenv("HARNESS_MEMORY_LIMIT", "100")
    assert open_data("image_folder", options).kind == "ffcv"


def test_auto_feeds_small_data_from_memory():
    assert open_data("digits").kind == "memory"


def test_auto_without_ffcv_reads_sample_by_sample_and_says_so(options, monkeypatch, caplog):
    monkeypatch.setattr(ffcv_compat, "available", lambda: None)
    monkeypatch.setenv("HARNESS_MEMORY_LIMIT", "100")
    data = open_data("image_folder", options)
    assert data.kind == "torch"
    assert "does not fit in memory and FFCV is not installed" in caplog.text
    assert len(labels(data, "test", 4)) == 18


def test_loader_that_is_not_installed_says_what_to_do(monkeypatch):
    monkeypatch.setattr(ffcv_compat, "available", lambda: None)
    with pytest.raises(ValueError, match=r"scripts/install_ffcv\.sh"):
        open_data("digits", loader="ffcv")


def test_memory_loader_refuses_what_does_not_fit(monkeypatch):
    monkeypatch.setenv("HARNESS_MEMORY_LIMIT", "1000")
    with pytest.raises(ValueError, match=r"digits takes 115008 bytes, more than the 1000.*HARNESS_MEMORY_LIMIT"):
        open_data("digits", loader="memory")


@pytest.mark.parametrize(
    ("part", "batch_size", "which", "message"),
    [
        ("train", 1294, {}, "1293 samples, less than one batch of 1294"),
        ("train", 9, {"world": 2}, "a batch of 9 cannot be shared equally by 2 workers"),
        ("train", 0, {}, "a batch of 0 samples"),
        ("test", 8, {"rank": 2, "world": 2}, "rank 2 of 2 workers"),
        ("valid", 8, {}, "no part 'valid'; did you mean 'validation'"),
    ],
)
def test_impossible_batches_are_refused_at_once(part, batch_size, which, message):
    with pytest.raises(ValueError, match=message):
        open_data("digits").batches(part, batch_size, **which)


@pytest.mark.parametrize(("validation", "message"), [(1, "less than 1"), (-0.1, "greater than or equal to 0")])
def test_validation_is_a_fraction(validation, message):
    with pytest.raises(ValueError, match=f"validation\n.*{message}"):
        open_data("digits", validation=validation)


def test_unknown_loader_is_refused():
    with pytest.raises(ValueError, match="'auto', 'memory', 'ffcv' or 'torch'"):
        open_data("digits", loader="fast")  # type: ignore[arg-type]
