import io
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.config import DatasetBlock, Store
from harness.data import beton, crops, ffcv_compat, images, loader, readers
from harness.data.loader import Data
from harness.data.prepare import prepare_source
from harness.data.source import of
from tests import fake_data

cv2 = pytest.importorskip("cv2")
NEEDS_FFCV = pytest.mark.skipif(ffcv_compat.available() is None, reason="FFCV is not installed")
SIZE = 24
ALL = {"random_resized_crop": [0.08, 1], "flip": True, "cutout": 7}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory) -> Path:
    """Fifty-four smooth pictures of three classes, of different sizes, and a cache that this module shares."""
    root = tmp_path_factory.mktemp("whole")
    fake_data.pictures(root / "images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(root / "cache"))
        patch.delenv("HARNESS_DATA", raising=False)
        yield root / "images"


def block(folder: Path, **given) -> DatasetBlock:
    content = {"name": "image_folder", "path": str(folder), "size": SIZE, "whole": True, "validation": 0.2}
    return DatasetBlock.model_validate(content | {"store": {"max_side": 60, "jpeg": 0.5}} | given)


@pytest.fixture
def opened(folder):
    return lambda **given: loader.open_data(block(folder, **given))


def epoch(data: Data, part: str, batch_size: int = 8, **which) -> tuple[torch.Tensor, torch.Tensor]:
    """All of x and y; batches are only valid until the next one comes."""
    both = [(x.clone(), y) for x, y in data.batches(part, batch_size, **which)]
    return torch.cat([x for x, _ in both]), torch.cat([y for _, y in both])


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def torchvisions_crop(height: int, width: int, drawn: np.ndarray, scale: tuple[float, float]) -> tuple[int, ...]:
    """RandomResizedCrop.get_params, with numbers that are given."""
    for area, shape in zip(drawn[:10], drawn[10:20], strict=True):
        target = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        ratio = np.exp(np.log(3 / 4) + (np.log(4 / 3) - np.log(3 / 4)) * shape)
        w, h = round(np.sqrt(target * ratio)), round(np.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(drawn[20] * (height - h + 1)), int(drawn[21] * (width - w + 1)), h, w
    if width / height < 3 / 4:
        w, h = width, round(width / (3 / 4))
    elif width / height > 4 / 3:
        w, h = round(height * (4 / 3)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0), (1.0, 1.0)])
def test_random_crop_is_torchvisions(scale):
    random = np.random.default_rng(0)
    sizes, drawn = random.integers(1, 600, (500, 2)), random.random((500, crops.DRAWS))
    sizes[:20, 0] = 5  # so flat that no try lies inside
    expected = [torchvisions_crop(*map(int, size), each, scale) for size, each in zip(sizes, drawn, strict=True)]
    found = crops.random(sizes, drawn, scale)
    assert found.tolist() == [list(each) for each in expected]
    assert (found[:, 2:] >= 1).all()
    assert (found[:, :2] + found[:, 2:] <= sizes).all()


@pytest.mark.parametrize(("size", "part", "expected"), [
    ((256, 341), 0.875, [16, 58, 224, 224]), ((10, 7), 1.0, [1, 0, 7, 7]), ((1, 1), 0.1, [0, 0, 1, 1]),
])  # fmt: skip
def test_middle_is_a_square_of_the_shorter_side(size, part, expected):
    assert crops.middle(np.array([size], np.uint16), part).tolist() == [expected]


@pytest.mark.parametrize("max_side", [60, 17, None])
def test_stored_image_is_no_larger_than_asked_for(max_side):
    pixels = np.full((100, 40, 3), 7, np.uint8)
    stored, about = images.encoded(pixels, Store(max_side=max_side, jpeg=0), 0)
    height = max_side or 100
    assert (about["height"], about["width"]) == (height, 40 * height // 100)
    assert np.array_equal(stored, np.full((height, 40 * height // 100, 3), 7))


def test_jpeg_is_for_the_fraction_asked_for():
    modes = [images.encoded(np.zeros((2, 2, 3), np.uint8), Store(jpeg=0.3), index)[1]["mode"] for index in range(500)]
    assert 0.25 < modes.count(beton.JPEG) / 500 < 0.35


@NEEDS_FFCV
@pytest.mark.parametrize("augment", [{}, ALL, ALL | {"crop_padding": 3, "roll": 2}], ids=["plain", "all", "moved"])
def test_ffcv_and_torch_give_the_same_tensors(opened, augment, caplog):
    ours, theirs = opened(loader="ffcv", augment=augment), opened(loader="torch", augment=augment)
    assert "read image by image through torch, slower than by FFCV" in caplog.text
    for part in ("validation", "test"):
        assert same(epoch(ours, part), epoch(theirs, part))
    for number in range(2):
        assert same(epoch(ours, "train", epoch=number, seed=3), epoch(theirs, "train", epoch=number, seed=3))
    assert same(epoch(ours, "train", augmented=False), epoch(theirs, "train", augmented=False))


def by_pillow(file: beton.File, index: int, info) -> torch.Tensor:
    """An image of the test split as evaluation shows it, by other means."""
    row = file.about[index]
    if row["mode"] == beton.JPEG:
        pixels = np.asarray(Image.open(io.BytesIO(file.payload(index).tobytes())))
    else:
        pixels = np.asarray(file.payload(index)).reshape(row["height"], row["width"], 3)
    side = int(min(pixels.shape[:2]) * info.centre)
    top, left = ((whole - side) // 2 for whole in pixels.shape[:2])
    square = cv2.resize(pixels[top : top + side, left : left + side], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    x = torch.from_numpy(square).permute(2, 0, 1).double() / 255
    mean, std = (torch.tensor(each)[:, None, None] for each in (info.mean, info.std))
    return ((x - mean) / std).float()


@pytest.mark.parametrize("kind", [pytest.param("ffcv", marks=NEEDS_FFCV), "torch"])
def test_evaluation_shows_the_middle_decoded_as_by_pillow(opened, folder, kind):
    x, y = epoch(opened(loader=kind), "test")
    file = beton.read(prepare_source(of(block(folder))).folder / "test.beton")
    assert {int(mode) for mode in file.about["mode"]} == {beton.JPEG, beton.RAW}
    assert torch.equal(y, torch.from_numpy(file.labels.copy()))
    expected = torch.stack([by_pillow(file, index, opened().info) for index in range(len(x))])
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [pytest.param("ffcv", marks=NEEDS_FFCV), "torch"])
def test_batches_are_channels_last_float32(opened, kind):
    x, _ = next(opened(loader=kind, augment=ALL).batches("train", 8))
    assert (x.dtype, tuple(x.shape)) == (torch.float32, (8, 3, SIZE, SIZE))
    assert x.is_contiguous(memory_format=torch.channels_last)


@NEEDS_FFCV
@pytest.mark.parametrize("world", [2, 4])
def test_workers_together_see_what_one_sees(opened, world):
    data = opened(augment=ALL, order="quasi_random")
    x, y = epoch(data, "train", epoch=2, seed=1)
    shares = [epoch(data, "train", epoch=2, seed=1, rank=rank, world=world) for rank in range(world)]
    assert torch.equal(x, torch.stack([share for share, _ in shares], dim=1).flatten(0, 1))
    assert torch.equal(y, torch.stack([share for _, share in shares], dim=1).flatten())


@NEEDS_FFCV
def test_number_of_threads_changes_nothing(opened):
    before, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            data = opened(augment=ALL, loader="ffcv")
            found.append(epoch(data, "train") + epoch(data, "test"))
    finally:
        torch.set_num_threads(before)
    assert same(*found)


@NEEDS_FFCV
def test_pages_give_what_the_mapped_file_gives(opened):
    mapped, pages = (opened(augment=ALL, loader="ffcv", os_cache=os_cache) for os_cache in (True, False))
    assert same(epoch(mapped, "train"), epoch(pages, "train"))
    assert same(epoch(mapped, "test"), epoch(pages, "test"))


def test_epochs_differ_and_come_again_after_a_restart(opened):
    first, second = (opened(augment=ALL, loader="torch") for _ in range(2))
    epoch(first, "train", epoch=0)
    assert same(epoch(first, "train", epoch=1), epoch(second, "train", epoch=1))
    assert not same(epoch(first, "train", epoch=1), epoch(first, "train", epoch=0))


BARE = """
import sys
import numpy as np
from ffcv.fields.decoders import CenterCropRGBImageDecoder
from ffcv.loader import Loader
given = {"batch_size": 18, "num_workers": 1, "drop_last": False, "seed": 0}
pipelines = {"sample": [CenterCropRGBImageDecoder((24, 24), 0.875)]}
((whole, labels),) = Loader(sys.argv[1], **given, pipelines=pipelines)
((pixels, _),) = Loader(sys.argv[2], **given)
np.savez(sys.argv[3], whole=whole, pixels=pixels, labels=labels)
"""


@NEEDS_FFCV
@pytest.mark.slow
def test_ffcvs_own_decoders_open_our_files(folder, tmp_path):
    """In a process of its own, because it changes numba's types; its cosine transform is not quite ours."""
    whole = prepare_source(of(block(folder))).folder / "test.beton"
    small = prepare_source(of(DatasetBlock(name="image_folder", path=str(folder), size=8)), beton=True).folder
    command = [sys.executable, "-c", BARE, str(whole), str(small / "test.beton"), str(tmp_path / "theirs.npz")]
    subprocess.run(command, check=True, env=os.environ | {"NUMBA_OPT": "0"})  # quick to compile, not to run
    theirs = np.load(tmp_path / "theirs.npz")
    assert theirs["labels"].flatten().tolist() == beton.read(whole).labels.tolist()
    assert np.array_equal(theirs["pixels"].transpose(0, 3, 1, 2), np.load(small / "test.images.npy"))
    ours = next(loader.open_data(block(folder, normalize={"mean": [0] * 3, "std": [1 / 255] * 3})).batches("test", 18))
    assert np.abs(ours[0].permute(0, 2, 3, 1).numpy() - theirs["whole"]).mean() < 1


@NEEDS_FFCV
def test_image_that_cannot_be_decoded_is_raised(opened, folder, tmp_path, monkeypatch):
    prepared = prepare_source(of(block(folder)))
    file = beton.read(prepared.folder / "test.beton")
    content = bytearray((prepared.folder / "test.beton").read_bytes())
    start = int(file.about["ptr"][np.flatnonzero(file.about["mode"] == beton.JPEG)[0]])
    content[start : start + 20] = bytes(20)
    (tmp_path / "test.beton").write_bytes(content)
    for kind, error in (("ffcv", RuntimeError), ("torch", ValueError)):
        data = opened(loader=kind)
        of_split = data._readers["test"]
        if kind == "ffcv":
            of_split._file = tmp_path / "test.beton"
        else:
            of_split._file = beton.read(tmp_path / "test.beton")
        with pytest.raises(error, match="cannot be decoded: `harness data verify`"):
            epoch(data, "test")


@pytest.mark.parametrize(("given", "message"), [
    ({"loader": "memory"}, "loader 'memory': whole images are cropped when they are read"),
    ({"loader": "torch", "os_cache": True}, "os_cache: no effect on loader 'torch'"),
])  # fmt: skip
def test_setting_without_effect_is_refused(opened, given, message):
    with pytest.raises(ValueError, match=message):
        opened(**given)


def test_quasi_random_order_is_refused_for_data_in_memory():
    with pytest.raises(ValueError, match="order: no effect on data that are in memory"):
        loader.open_data(DatasetBlock(name="digits", order="quasi_random"))


class Memory:
    available = 1000


@pytest.mark.parametrize(("size", "order", "cached"), [
    (700, "random", True), (700, "quasi_random", True), (800, "quasi_random", False), (800, "random", True),
])  # fmt: skip
def test_system_keeps_what_fits_in_memory(tmp_path, monkeypatch, caplog, size, order, cached):
    monkeypatch.setattr(readers.psutil, "virtual_memory", Memory)
    (tmp_path / "x").write_bytes(bytes(size))
    decide = partial(readers.os_cache, file=tmp_path / "x")
    assert decide(DatasetBlock(name="imagenet", order=order)) is cached
    assert ("quasi_random" in caplog.text) == (size == 800 and order == "random")
    assert decide(DatasetBlock(name="imagenet", order=order, os_cache=True)) is True


def test_pages_in_random_order_must_fit_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(readers.psutil, "virtual_memory", Memory)
    (tmp_path / "x").write_bytes(bytes(800))
    with pytest.raises(ValueError, match=r"os_cache: false with 'order: random' keeps .* 800 bytes of which 1000"):
        readers.os_cache(DatasetBlock(name="imagenet", os_cache=False), tmp_path / "x")
