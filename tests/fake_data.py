"""Small files in the formats that datasets are read from."""

import gzip
import hashlib
import importlib.util
import pickle
import struct
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


def events(number: int, size: int, duration_us: int, *, seed: int = 0) -> np.ndarray:
    """Random events in the order of time, as tonic returns them."""
    random = np.random.default_rng(seed)
    found = np.zeros(number, dtype=[("x", int), ("y", int), ("t", int), ("p", int)])
    found["x"], found["y"] = random.integers(0, size, (2, number))
    found["t"], found["p"] = np.sort(random.integers(0, duration_us, number)), random.integers(0, 2, number)
    return found


def nmnist_file(found: np.ndarray) -> bytes:
    """Events of 40 bits: x, y, and then one bit of polarity and 23 bits of microseconds, big-endian."""
    polarity_and_time = (found["p"] << 23) | found["t"]
    columns = [found["x"], found["y"], polarity_and_time >> 16, polarity_and_time >> 8, polarity_and_time]
    return (np.stack(columns, axis=1) & 255).astype(np.uint8).tobytes()


def nmnist(root: Path, module: ModuleType, monkeypatch) -> dict[str, list[np.ndarray]]:
    """Three recordings of each digit for training and one for testing, as the unpacked archives hold them."""
    found: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for split, number in (("train", 3), ("test", 1)):
        for digit in range(10):
            folder = root / "NMNIST" / split.capitalize() / str(digit)
            folder.mkdir(parents=True)
            for index in range(number):
                found[split].append(events(500, 34, 300_000, seed=1000 * number + 10 * digit + index))
                (folder / f"{index:05}.bin").write_bytes(nmnist_file(found[split][-1]))
    given_out(module, monkeypatch, sizes={"train": 30, "test": 10})
    return found


def aedat4(found: np.ndarray, size: int = 128) -> bytes:
    """An AEDAT 4 file without compression: a header and packets of events, each a flatbuffer behind its length."""

    def prefixed(content: bytes) -> bytes:
        return struct.pack("<I", len(content)) + content

    about = (
        '<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/">'
        '<node name="0" path="/mainloop/Recorder/outInfo/0/"><attr key="compression" type="string">NONE</attr>'
        '<attr key="typeIdentifier" type="string">EVTS</attr>'
        '<node name="info" path="/mainloop/Recorder/outInfo/0/info/">'
        f'<attr key="sizeX" type="int">{size}</attr><attr key="sizeY" type="int">{size}</attr>'
        "</node></node></node></dv>"
    ).encode()
    header = struct.pack("<I4sHHHHHxxiI", 20, b"IOHE", 10, 8, 0, 0, 4, 12, 4) + prefixed(about) + bytes(1)
    header += bytes(-len(header) % 4)
    fields = {"names": ["t", "x", "y", "p"], "formats": ["<i8", "<i2", "<i2", "u1"], "offsets": [0, 8, 10, 12]}
    packed = np.zeros(len(found), np.dtype(fields | {"itemsize": 16}))
    for name in fields["names"]:
        packed[name] = found[name]
    packet = prefixed(struct.pack("<I4sHHHxxiII", 16, b"EVTS", 6, 8, 4, 8, 4, len(packed)) + packed.tobytes())
    return b"#!AER-DAT4.0\r\n" + prefixed(header) + struct.pack("<II", 0, len(packet)) + packet


def cifar10_dvs(root: Path, module: ModuleType, monkeypatch) -> None:
    """Three recordings of each class, two of them for training. Without the package `aedat`, its reader is replaced."""
    for label, name in enumerate(module.CLASSES):
        (root / "CIFAR10DVS" / name).mkdir(parents=True)
        for number in (0, 2, 10):
            content = aedat4(events(400, 128, 1_300_000, seed=100 * label + number))
            (root / "CIFAR10DVS" / name / f"cifar10_{name}_{number}.aedat4").write_bytes(content)
    if importlib.util.find_spec("aedat") is None:
        monkeypatch.setattr(module, "read", lambda file: events(400, 128, 1_300_000, seed=file.stat().st_size))
    monkeypatch.setattr(module, "TRAIN_OF_CLASS", 2)
    given_out(module, monkeypatch, sizes={"train": 20, "test": 10})
