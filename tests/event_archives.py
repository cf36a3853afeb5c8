"""Small archives of event data in exactly the official formats, filled by the simulated camera."""

import hashlib
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from harness.formats.event_camera import Camera, moved, saccades
from tests.fake_data import given_out

Recordings = dict[str, np.ndarray]
"""Path in an archive -> events."""
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def seen(height: int, width: int, duration_us: int, number: int) -> np.ndarray:
    """What the camera sees of a random picture, the same for the same `number`."""
    picture = np.random.default_rng(number).random((5, 6))
    times, places = saccades(7, duration_us, 6)
    return Camera(noise_hz=0.05, seed=3).record(0.1 + moved(picture, 8 + places, (height, width), 3), times, number)


@dataclass(frozen=True)
class Archives:
    """Official archives of a dataset, by name, and what is in them."""

    folder: str
    """Below the root of raw data, where tonic keeps them."""
    content: dict[str, Recordings]
    encoded: Callable[[np.ndarray], bytes]
    packed: Callable[[dict[str, bytes]], bytes]

    @property
    def recordings(self) -> Recordings:
        return {path: found for each in self.content.values() for path, found in each.items()}

    def unpack(self, root: Path) -> None:
        """Write what is in the archives as they are unpacked."""
        for path, found in self.recordings.items():
            file = root / self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.encoded(found))

    def write(self, root: Path) -> dict[str, str]:
        """Write the archives themselves; returns the MD5 of each."""
        (root / self.folder).mkdir(parents=True)
        checksums = {}
        for name, recordings in self.content.items():
            content = self.packed({path: self.encoded(found) for path, found in recordings.items()})
            (root / self.folder / name).write_bytes(content)
            checksums[name] = hashlib.md5(content).hexdigest()
        return checksums


@cache
def nmnist_archives() -> Archives:
    """Two recordings of each digit for training and one for testing."""

    def of(split: str, digits: list[int]) -> Recordings:
        return {
            f"{split}/{digit}/{number:05}.bin": seen(34, 34, 315_000, 100 * len(split) + number)
            for number, digit in enumerate(digits, start=1)
        }

    content = {"train.zip": of("Train", [*range(10), *range(10)]), "test.zip": of("Test", [*range(10)])}
    return Archives("NMNIST", content, bin_file, zipped)


@cache
def n_caltech101_archives() -> Archives:
    """Eleven recordings of three classes."""
    names = ("BACKGROUND_Google", "Faces_easy", "yin_yang")
    paths = [f"Caltech101/{name}/image_{number:04}.bin" for name in names for number in range(1, 12)]
    content = {"N-Caltech101-archive.zip": {path: seen(180, 240, 300_000, n) for n, path in enumerate(paths)}}
    return Archives("NCALTECH101", content, bin_file, zipped)


@cache
def cifar10_dvs_archives() -> Archives:
    """Three recordings of each class, out of order."""
    paths = [f"{name}/cifar10_{name}_{number}.aedat4" for name in CIFAR for number in (10, 0, 2)]
    recordings = {path: seen(128, 128, 1_300_000, number) for number, path in enumerate(paths)}
    return Archives("CIFAR10DVS", {"CIFAR10DVS.zip": recordings}, aedat4, zipped_twice)


@cache
def dvs_gesture_archives() -> Archives:
    """Eleven gestures of two people in one light for training, of one for testing; times are whole milliseconds."""

    def of(split: str, users: tuple[int, ...]) -> Recordings:
        paths = [
            f"ibmGesture{split}/user{user:02}_fluorescent_led/{label}.npy" for user in users for label in range(11)
        ]
        recordings = {path: seen(128, 128, 6_000_000, 100 * users[0] + n) for n, path in enumerate(paths)}
        for found in recordings.values():
            found["t"] = 40_000_000 + found["t"] // 1000 * 1000  # since the trial began
        return recordings

    content = {"ibmGestureTrain.tar.gz": of("Train", (2, 10)), "ibmGestureTest.tar.gz": of("Test", (24,))}
    return Archives("DVSGesture", content, npy, tarred)


def bin_file(found: np.ndarray) -> bytes:
    """Events of 40 bits: x, y, and then one bit of polarity and 23 bits of microseconds, big-endian."""
    polarity_and_time = (found["p"].astype(np.int64) << 23) | found["t"]
    columns = [found["x"], found["y"], polarity_and_time >> 16, polarity_and_time >> 8, polarity_and_time]
    return (np.stack(columns, axis=1) & 255).astype(np.uint8).tobytes()


def aedat4(found: np.ndarray, *, size: int = 128, packet_events: int = 1000) -> bytes:
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
    parts = [b"#!AER-DAT4.0\r\n", prefixed(header)]
    for start in range(0, len(packed), packet_events):
        some = packed[start : start + packet_events]
        packet = prefixed(struct.pack("<I4sHHHxxiII", 16, b"EVTS", 6, 8, 4, 8, 4, len(some)) + some.tobytes())
        parts += [struct.pack("<II", 0, len(packet)), packet]
    return b"".join(parts)


def npy(found: np.ndarray) -> bytes:
    """An array of columns x, y, p and t in milliseconds."""
    columns = [found["x"], found["y"], found["p"], found["t"] // 1000]
    return npy_of(np.stack(columns, axis=1).astype(np.float64))


def npy_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path, content in files.items():
            file.writestr(path, content)
    return archive.getvalue()


def zipped_twice(files: dict[str, bytes]) -> bytes:
    """An archive of one archive for each folder."""
    names = dict.fromkeys(path.partition("/")[0] for path in files)
    below = {name: {path: files[path] for path in files if path.startswith(f"{name}/")} for name in names}
    return zipped({f"{name}.zip": zipped(found) for name, found in below.items()})


def tarred(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as file:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def nmnist(root: Path, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Archives:
    """N-MNIST as unpacked under `root`, which `module` then takes for all of it."""
    pytest.importorskip("tonic")
    given_out(module, monkeypatch, sizes={"train": 20, "test": 10})
    return _unpacked(nmnist_archives(), root)


def n_caltech101(root: Path, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Archives:
    """N-Caltech101 as unpacked under `root`, which `module` then takes for all of it."""
    pytest.importorskip("tonic")
    given_out(module, monkeypatch, sizes={"train": 29, "test": 4}, classes=3)
    return _unpacked(n_caltech101_archives(), root)


def cifar10_dvs(root: Path, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Archives:
    """CIFAR10-DVS as unpacked under `root`, which `module` then takes for all of it; the last of each class to test."""
    pytest.importorskip("tonic")
    pytest.importorskip("aedat")
    monkeypatch.setattr(module, "TRAIN_OF_CLASS", 3)
    given_out(module, monkeypatch, sizes={"train": 20, "test": 10})
    return _unpacked(cifar10_dvs_archives(), root)


def dvs_gesture(root: Path, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Archives:
    """DVS-Gesture as unpacked under `root`, which `module` then takes for all of it."""
    given_out(module, monkeypatch, sizes={"train": 22, "test": 11})
    return _unpacked(dvs_gesture_archives(), root)


def _unpacked(archives: Archives, root: Path) -> Archives:
    archives.unpack(root)
    return archives
