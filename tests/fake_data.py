"""Small files in the formats that datasets are read from."""

import gzip
import hashlib
import io
import pickle
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image
from scipy.io import savemat


def image_folder(folder: Path, *, train: int = 12, test: int = 6, size: int = 8, suffix: str = ".png") -> Path:
    """Random RGB images of three classes, `train` and `test` of each."""
    random = np.random.default_rng(0)
    for below, index in _places(folder, train, test):
        pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(below / f"{index:03}{suffix}")
    return folder


def pictures(folder: Path, *, train: int = 12, test: int = 6) -> Path:
    """Smooth random photographs of three classes, `train` and `test` of each, as JPEG of different sizes."""
    random = np.random.default_rng(0)
    for below, index in _places(folder, train, test):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        width, height = random.integers(30, 100, 2).tolist()
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(below / f"{index:03}.jpg", quality=95)
    return folder


def _places(folder: Path, train: int, test: int) -> Iterator[tuple[Path, int]]:
    """The folder and the number of each image, in folders of three classes for each split."""
    for split, number in (("train", train), ("test", test)):
        for name in ("ant", "bee", "cow"):
            below = folder / split / name
            below.mkdir(parents=True)
            yield from ((below, index) for index in range(number))


def idx(array: np.ndarray) -> bytes:
    """A file of bytes in MNIST's format."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def mnist(root: Path, module: ModuleType, monkeypatch, *, zipped: bool) -> dict[str, np.ndarray]:
    """Forty random images under `root`, which `module` (MNIST or Fashion-MNIST) then takes for the official ones."""
    random = np.random.default_rng(0)
    folder = root / module.INFO.title.replace("-", "") / "raw"
    folder.mkdir(parents=True)
    arrays, checksums = {}, {}
    for prefix, number in (("train", 30), ("t10k", 10)):
        arrays[f"{prefix}-images-idx3-ubyte"] = random.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte"] = random.integers(0, 10, number, dtype=np.uint8)
    for name, array in arrays.items():
        content, packed = idx(array), gzip.compress(idx(array), mtime=0)
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(packed if zipped else content)
        official = {name: content, f"{name}.gz": packed}
        checksums |= {key: md5(official[key]) for key in official if key in module.INFO.checksums}
    given_out(module, monkeypatch, sizes={"train": 30, "test": 10}, checksums=checksums)
    return arrays


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


def given_out(module: ModuleType, monkeypatch, **facts) -> None:
    """Change what a dataset's module says about its files."""
    monkeypatch.setattr(module, "INFO", replace(module.INFO, **facts))


class Python2Pickler(pickle._Pickler):
    """Writes every string the way Python 2 did, in which the official files of CIFAR were made."""

    def __init__(self, file):
        super().__init__(file, protocol=2)

    def save_string(self, value) -> None:
        content = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)
        self.memoize(value)

    dispatch = pickle._Pickler.dispatch | {str: save_string, bytes: save_string}


def cifar(root: Path, module: ModuleType, monkeypatch, *, number: int = 6) -> dict[str, np.ndarray]:
    """`number` random images in each official file of CIFAR-10 or CIFAR-100."""
    random = np.random.default_rng(0)
    folder = root / {10: "cifar-10-batches-py", 100: "cifar-100-python"}[module.INFO.classes]
    folder.mkdir(parents=True)
    arrays, checksums = {}, {}
    for name in module.INFO.checksums:
        arrays[name] = random.integers(0, 256, (number, 3072), dtype=np.uint8)
        classes = random.integers(0, module.INFO.classes, number).tolist()
        labels = {"labels": classes} if module.INFO.classes == 10 else {"fine_labels": classes, "coarse_labels": [0]}
        with (folder / name).open("wb") as file:
            Python2Pickler(file).dump({"batch_label": name, "data": arrays[name], **labels})
        checksums[name] = md5((folder / name).read_bytes())
    files = {"train": len(checksums) - 1, "test": 1}
    sizes = {split: number * files[split] for split in files}
    given_out(module, monkeypatch, sizes=sizes, checksums=checksums)
    return arrays


def imagenet(root: Path, module: ModuleType, monkeypatch, *, packed: bool = False) -> None:
    """Nine training and six validation photographs of three classes, in folders named as ImageNet's or its archives."""
    image_folder(root / "imagenet", train=3, test=2, size=300, suffix=".JPEG")
    (root / "imagenet" / "test").rename(root / "imagenet" / "val")
    if packed:
        pack_imagenet(root / "imagenet")
    given_out(module, monkeypatch, sizes={"train": 9, "test": 6}, classes=3)
    for name, value in {"CLASSES": 3, "OF_CLASS": 2, "NUMBERED": {0: "ant", 2: "cow"}}.items():
        monkeypatch.setattr(module.imagenet, name, value)


def pack_imagenet(folder: Path) -> None:
    """Replace train/<wnid>/ and val/<wnid>/ by archives laid out as the official ones."""
    names = sorted(each.name for each in (folder / "train").iterdir())
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as train:
        for name in reversed(names):
            with tarfile.open(folder / f"{name}.tar", "w") as inner:
                for index, file in enumerate(sorted((folder / "train" / name).iterdir(), reverse=True)):
                    inner.add(file, f"{name}_{index}.JPEG")
            train.add(folder / f"{name}.tar", f"{name}.tar")
            (folder / f"{name}.tar").unlink()
    # The numbers of the development kit are not in the order of the names, and groups of classes have numbers, too.
    numbers = {name: 1 + number for number, name in enumerate(reversed(names))} | {"insect": 4}
    validation = sorted((folder / "val").glob("*/*"), key=lambda file: file.name)
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as archive:
        for index, file in reversed(list(enumerate(validation, start=1))):
            archive.add(file, f"ILSVRC2012_val_{index:08}.JPEG")
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("gloss", object)]
    rows = [(number, name, name, name, 2 * (name == "insect")) for name, number in numbers.items()]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, [*fields, ("num_children", object)])})
    truth = "\n".join(str(numbers[file.parent.name]) for file in validation).encode()
    content = {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth}
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as kit:
        for name, data in content.items():
            about = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            about.size = len(data)
            kit.addfile(about, io.BytesIO(data))
    shutil.rmtree(folder / "train")
    shutil.rmtree(folder / "val")
