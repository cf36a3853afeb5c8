"""Small files in the formats that datasets are read from."""

import gzip
import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image


def image_folder(folder: Path, *, train: int = 12, test: int = 6, size: int = 8, suffix: str = ".png") -> Path:
    """Random RGB images of three classes, `train` and `test` of each."""
    random = np.random.default_rng(0)
    for split, number in (("train", train), ("test", test)):
        for name in ("ant", "bee", "cow"):
            below = folder / split / name
            below.mkdir(parents=True)
            for index in range(number):
                pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(below / f"{index:03}{suffix}")
    return folder


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


def imagenet(root: Path, module: ModuleType, monkeypatch) -> None:
    """Nine training and six validation photographs of three classes, in folders named as ImageNet's."""
    image_folder(root / "imagenet", train=3, test=2, size=300, suffix=".JPEG")
    (root / "imagenet" / "test").rename(root / "imagenet" / "val")
    given_out(module, monkeypatch, sizes={"train": 9, "test": 6}, classes=3)
