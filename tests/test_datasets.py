"""What every dataset has to keep, then what each one says about its own files."""

import ast
import importlib
import os
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness import plugins, torchvision_cpu
from harness.contract import Dataset
from harness.data import download
from harness.data.source import SPLITS, Source, find
from harness.formats import folders
from harness.formats.events import EVENT
from tests import event_archives, fake_data

ROOT = Path(__file__).parent.parent
NAMES = plugins.names("datasets")
REAL = Path(os.environ.get("HARNESS_DATA", "nowhere")).absolute()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """An empty cache, so that nothing of the user's is read or written."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


FAKES = {
    "mnist": partial(fake_data.mnist, zipped=False),
    "fashion_mnist": partial(fake_data.mnist, zipped=True),
    "cifar10": fake_data.cifar,
    "cifar100": fake_data.cifar,
    "imagenet": fake_data.imagenet,
    "nmnist": event_archives.nmnist,
    "cifar10_dvs": event_archives.cifar10_dvs,
    "dvs_gesture": event_archives.dvs_gesture,
    "n_caltech101": event_archives.n_caltech101,
}


@pytest.fixture(params=NAMES)
def source(request, tmp_path, monkeypatch) -> Source:
    """Each dataset on small generated files in its official format; one from another package on what is here."""
    name, options = request.param, None
    if name == "image_folder":
        options = {"path": str(fake_data.image_folder(tmp_path / "images")), "size": 8}
    if name in FAKES:
        FAKES[name](tmp_path / "data", plugins.load("datasets", name), monkeypatch)
        monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    found = find(name, options)
    for way in ("FILES", "download"):
        monkeypatch.delattr(found.module, way, raising=False)
    try:
        found.samples()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return found


def test_facts_are_complete(source):
    info = source.info
    channels, height, width = info.shape
    assert isinstance(source.module, Dataset)
    assert all((info.title, info.source, info.licence, info.citation))
    assert info.classes > 1
    assert min(height, width) > 0
    assert len(info.mean) == len(info.std) == (0 if info.temporal else channels)
    assert all(0 < mean < 1 and 0 < std < 1 for mean, std in zip(info.mean, info.std, strict=True))
    assert set(info.sizes) == set(SPLITS)
    assert all(re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", given) for given in info.checksums.values())


def test_samples_are_what_the_facts_say(source):
    for split, samples in source.samples().items():
        assert len(samples) == source.info.sizes[split]
        for index in {0, 1, len(samples) // 2, len(samples) - 1}:
            image, label = samples[index]
            if source.info.temporal:
                assert image.dtype == EVENT
                assert (np.diff(image["t"]) >= 0).all()
                assert all(
                    0 <= image[field].min() <= image[field].max() < size
                    for field, size in zip("pyx", source.info.shape, strict=True)
                )
            elif source.info.stored == "images":
                assert (image.dtype, image.ndim, len(image)) == (np.uint8, 3, 3)
            else:
                assert (image.dtype, image.shape) == (np.uint8, source.info.shape)
            assert isinstance(label, int)
            assert 0 <= label < source.info.classes


def test_order_is_always_the_same(source):
    for split, samples in source.samples().items():
        again = source.samples()[split]
        for index in {0, len(samples) // 3, len(samples) - 1}:
            assert np.array_equal(samples[index][0], again[index][0])
            assert samples[index][1] == again[index][1]


@pytest.mark.parametrize("name", NAMES)
def test_file_is_short_and_needs_little(name):
    file = ROOT / "datasets" / f"{name}.py"
    if not file.exists():
        pytest.skip("from another package")
    content = file.read_text()
    assert len(content.splitlines()) < 100
    imports = [node for node in ast.walk(ast.parse(content)) if isinstance(node, ast.ImportFrom)]
    ours = {f"{node.module}.{alias.name}" for node in imports for alias in node.names if "harness" in str(node.module)}
    assert all(re.match(r"harness\.(contract|formats|torchvision_cpu)\b", each) for each in ours)


def test_digits_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.datasets").load_digits()
    samples = find("digits").samples()
    ours = sorted((label, image.tobytes()) for split in SPLITS for image, label in samples[split])
    scaled = (sklearn.images * 255 / 16).round().astype(np.uint8)
    assert ours == sorted((int(y), x.tobytes()) for x, y in zip(scaled, sklearn.target, strict=True))


def test_digits_are_split_evenly_within_each_class():
    counts = {s: np.bincount([label for _, label in samples]) for s, samples in find("digits").samples().items()}
    assert abs(counts["test"] / (counts["train"] + counts["test"]) - 0.2).max() < 0.005


def test_digits_mean_and_std_are_right():
    images = np.stack([image for image, _ in find("digits").samples()["train"]]) / 255
    info = find("digits").info
    assert images.mean() == pytest.approx(info.mean[0], abs=1e-4)
    assert images.std() == pytest.approx(info.std[0], abs=1e-4)


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist_is_read_from_a_folder_that_cannot_be_written(tmp_path, monkeypatch, zipped):
    module = plugins.load("datasets", "mnist")
    arrays = fake_data.mnist(tmp_path / "data", module, monkeypatch, zipped=zipped)
    before = sorted((tmp_path / "data").rglob("*"))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    samples = find("mnist").samples()["test"]
    assert [label for _, label in samples] == arrays["t10k-labels-idx1-ubyte"].tolist()
    assert np.array_equal(samples[3][0][0], arrays["t10k-images-idx3-ubyte"][3])
    assert sorted((tmp_path / "data").rglob("*")) == before


def test_mnist_file_with_other_content_is_named(tmp_path, monkeypatch):
    module = plugins.load("datasets", "mnist")
    fake_data.mnist(tmp_path, module, monkeypatch, zipped=False)
    (tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte").write_bytes(fake_data.idx(np.zeros(30)))
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte is damaged"):
        len(module.samples(tmp_path, "train"))


def test_mnist_that_cannot_be_downloaded_says_what_to_do(monkeypatch, tmp_path):
    def offline(*_, **__) -> None:
        raise download.DownloadError("Name or service not known")

    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    monkeypatch.setattr(download, "fetch", offline)
    with pytest.raises(download.DownloadError, match=r"service not known.*HARNESS_DATA.*harness data prepare mnist"):
        find("mnist").samples()


@pytest.mark.data
@pytest.mark.skipif(not (REAL / "MNIST").is_dir(), reason="no MNIST/ in HARNESS_DATA")
def test_real_mnist():
    samples = find("mnist").samples()
    assert [len(samples[split]) for split in SPLITS] == [60_000, 10_000]
    assert [label for _, label in samples["train"]][:5] == [5, 0, 4, 1, 9]
    pixels = np.stack([image for image, _ in samples["train"]]) / np.float32(255)
    assert pixels.mean() == pytest.approx(find("mnist").info.mean[0], abs=1e-4)
    assert pixels.std() == pytest.approx(find("mnist").info.std[0], abs=1e-4)


def labelled(samples) -> dict[bytes, int]:
    return {image.tobytes(): label for image, label in (samples[index] for index in range(len(samples)))}


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """The module on archives that are laid out as the official ones; and their folder."""
    module = plugins.load("datasets", "imagenet")
    fake_data.imagenet(tmp_path, module, monkeypatch, packed=True)
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    return module, tmp_path / "imagenet"


def test_imagenet_is_the_same_from_the_archives_as_extracted(imagenet, tmp_path, monkeypatch):
    packed = find("imagenet").samples()
    fake_data.image_folder(tmp_path / "other" / "imagenet", train=3, test=2, size=300, suffix=".JPEG")
    (tmp_path / "other" / "imagenet" / "test").rename(tmp_path / "other" / "imagenet" / "val")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "other"))
    extracted = find("imagenet").samples()
    for split, number in (("train", 9), ("test", 6)):
        assert len(packed[split]) == number
        assert labelled(packed[split]) == labelled(extracted[split])


def test_imagenet_is_found_beside_other_data_without_a_folder_of_its_own(imagenet, tmp_path):
    for file in imagenet[1].iterdir():
        file.rename(tmp_path / file.name)
    imagenet[1].rmdir()
    assert len(find("imagenet").samples()["test"]) == 6


def test_imagenet_reads_nothing_before_it_has_to(imagenet, monkeypatch):
    monkeypatch.setattr(imagenet[0].imagenet, "images", None)
    assert find("imagenet").is_here()


def test_imagenet_training_images_are_stored_mixed(imagenet):
    samples = find("imagenet").samples()["train"]
    labels = [samples[index][1] for index in range(9)]
    assert labels != sorted(labels)
    assert labels == [find("imagenet").samples()["train"][index][1] for index in range(9)]


def test_imagenet_options_of_reading_leave_the_file_as_it_is(imagenet):
    other = find("imagenet", {"size": 64, "centre": 0.5})
    assert (other.info.shape, other.info.centre) == ((3, 64, 64), 0.5)
    assert other.kept == find("imagenet").kept


def cut_short(folder: Path) -> None:
    archive = folder / "ILSVRC2012_img_val.tar"
    archive.write_bytes(archive.read_bytes()[: 3 * archive.stat().st_size // 5])


def without_the_kit(folder: Path) -> None:
    (folder / "ILSVRC2012_devkit_t12.tar.gz").unlink()


def another_kit(folder: Path) -> None:
    (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"not an archive")


def no_training(folder: Path) -> None:
    (folder / "ILSVRC2012_img_train.tar").unlink()


def other_archive(folder: Path) -> None:
    shutil.copy(folder / "ILSVRC2012_img_val.tar", folder / "ILSVRC2012_img_train.tar")


@pytest.mark.parametrize(("damage", "message"), [
    (cut_short, r"ILSVRC2012_img_val\.tar is (not a whole tar archive|cut short)"),
    (without_the_kit, r"no ILSVRC2012_devkit_t12\.tar\.gz in .*, which says what is on the images"),
    (another_kit, "is not the development kit of ILSVRC 2012"),
    (no_training, r"neither train/<wnid>/ nor ILSVRC2012_img_train\.tar in"),
    (other_archive, r"ILSVRC2012_img_train\.tar has 6 classes instead of 3"),
])  # fmt: skip
def test_imagenet_that_is_damaged_says_what_is_wrong(imagenet, damage, message):
    damage(imagenet[1])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        [len(samples) for samples in find("imagenet").samples().values()]


def test_imagenet_with_other_classes_or_numbers_is_refused(imagenet, monkeypatch):
    samples = find("imagenet").samples()
    monkeypatch.setattr(imagenet[0].imagenet, "NUMBERED", {1: "dog"})
    with pytest.raises(ValueError, match="has bee as class 1 instead of dog"):
        len(samples["train"])
    monkeypatch.setattr(imagenet[0].imagenet, "NUMBERED", {})
    monkeypatch.setattr(imagenet[0].imagenet, "OF_CLASS", 3)
    with pytest.raises(ValueError, match=r"has 2 images of class \d instead of 3"):
        len(samples["test"])
    fake_data.given_out(imagenet[0], monkeypatch, sizes={"train": 10, "test": 6})
    with pytest.raises(ValueError, match="has 9 images instead of 10"):
        len(samples["train"])


@pytest.fixture
def folder(tmp_path) -> Path:
    return fake_data.image_folder(tmp_path / "data")


def test_folder_gives_classes_by_name(folder):
    labels = [label for _, label in find("image_folder", {"path": str(folder), "size": 8}).samples()["train"]]
    assert labels == [0] * 12 + [1] * 12 + [2] * 12


def test_folder_is_found_under_harness_data(folder, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA", str(folder.parent))
    assert find("image_folder", {"path": "data", "size": 8}).info.sizes == {"train": 36, "test": 18}


def test_folder_val_stands_in_for_test(folder):
    (folder / "test").rename(folder / "val")
    assert find("image_folder", {"path": str(folder), "size": 8}).info.sizes == {"train": 36, "test": 18}


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK"])
def test_folder_turns_any_image_into_rgb(folder, mode):
    Image.new("RGB", (8, 8), (200, 200, 200)).convert(mode).save(folder / "train" / "ant" / "000.tif")
    image, _ = find("image_folder", {"path": str(folder), "size": 8}).samples()["train"][1]
    assert image.shape == (3, 8, 8)
    assert len(np.unique(image[0])) == 1 or mode in "1P"


@pytest.mark.parametrize(("width", "height"), [(20, 10), (10, 23), (8, 8), (500, 375)])
def test_folder_resizes_and_cuts_as_torchvision_does(width, height):
    v2 = torchvision_cpu.load("torchvision.transforms")
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for size, shorter_side in ((8, 8), (6, 8)):
        expected = v2.CenterCrop(size)(v2.Resize(shorter_side)(image))
        assert np.array_equal(np.asarray(folders.fit(image, size, shorter_side)), np.asarray(expected))


def test_folder_reads_an_image_only_when_asked_for(folder):
    (folder / "train" / "ant" / "003.png").write_bytes(b"not an image")
    samples = find("image_folder", {"path": str(folder), "size": 8}).samples()["train"]
    assert samples[2][1] == 0
    with pytest.raises(ValueError, match=r"ant/003\.png is not a readable image"):
        samples[3]


def test_folder_with_a_truncated_image_names_it(folder):
    file = folder / "train" / "ant" / "000.png"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"000\.png is not a readable image"):
        find("image_folder", {"path": str(folder), "size": 8}).samples()["train"][0]


def test_folder_with_a_class_that_is_never_trained_is_refused(folder):
    (folder / "test" / "cow").rename(folder / "test" / "dog")
    with pytest.raises(ValueError, match=r"test has classes that .*train has not: dog"):
        find("image_folder", {"path": str(folder), "size": 8}).samples()


def test_folder_whose_test_lacks_a_class_numbers_the_others_as_in_train(folder):
    shutil.rmtree(folder / "test" / "bee")
    source = find("image_folder", {"path": str(folder), "size": 8})
    assert [label for _, label in source.samples()["test"]] == [0] * 6 + [2] * 6
    assert source.info.names == ("ant", "bee", "cow")


def test_folder_without_splits_says_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train/<class>/.*HARNESS_DATA"):
        find("image_folder", {"path": str(tmp_path), "size": 8}).samples()


def test_folder_that_changed_has_other_facts(folder):
    def listing() -> str:
        return find("image_folder", {"path": str(folder), "size": 8}).info.checksums["listing"]

    before = listing()
    assert listing() == before
    os.utime(folder / "train" / "ant" / "000.png", (1, 1))
    assert listing() != before


def test_folder_stored_whole_keeps_every_pixel_mixed(folder):
    options = {"path": str(folder), "whole": True}
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8))
    wide.save(folder / "train" / "ant" / "000.png")
    small, large = (find("image_folder", options | {"size": size}) for size in (8, 300))
    assert (small.info.stored, small.info.shape, small.info.centre) == ("images", (3, 8, 8), 0.875)
    assert small.kept == large.kept
    samples = small.samples()["train"]
    assert labelled(samples)[np.asarray(wide).transpose(2, 0, 1).tobytes()] == 0
    labels = [samples[index][1] for index in range(36)]
    assert labels != sorted(labels) == [0] * 12 + [1] * 12 + [2] * 12


def test_noise_of_whole_images_has_many_sizes_none_smaller_than_the_shape():
    samples = find("noise", {"shape": (3, 8, 12), "whole": True}).samples()["test"]
    shapes = {samples[index][0].shape for index in range(128)}
    assert {shape[0] for shape in shapes} == {3}
    assert {shape[1] for shape in shapes} == {8, 9, 10}
    assert {shape[2] for shape in shapes} == {12, 13, 14, 15}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("image_folder", {"path": "x", "size": 8, "centre": 0.5}, "centre: only for 'whole: true'"),
        ("mnst", {}, "did you mean 'mnist'"),
        ("mnist", {"size": 3}, r"takes no options \(given: size\)"),
        ("image_folder", {"path": "x"}, "size: Field required"),
        ("image_folder", {"path": "x", "size": 8, "colour": 1}, "colour: Extra inputs are not permitted"),
    ],
)
def test_wrong_name_or_option_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        find(name, options)


def test_torchvision_imports_beside_any_torch():
    assert torchvision_cpu.load("torchvision.datasets").MNIST
    assert torchvision_cpu.load("torchvision.datasets") is sys.modules["torchvision.datasets"]


def test_torchvision_that_fails_otherwise_is_not_covered_up(monkeypatch):
    def broken(name: str) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="something else"):
        torchvision_cpu.load()
