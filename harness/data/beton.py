"""FFCV's file format (.beton), written and read without FFCV.

A file holds a header, a description of each field, a row for every sample, the samples, and a table of where they lie.
Pages are what FFCV reads at once; no sample crosses the border of a page. Ours have two fields, `sample` and `label`;
FFCV opens them, and whatever FFCV is told to do with images, arrays or bytes works on them. Integers are little-endian.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

VERSION = 2
HEADER = np.dtype(
    [("version", "<u2"), ("num_fields", "<u2"), ("page_size", "<u4"), ("num_samples", "<u8"), ("table", "<u8")],
    align=True,
)
DESCRIPTION = np.dtype([("type_id", "u1"), ("name", "u1", 16), ("arguments", "u1", 1024)], align=True)
REGION = np.dtype([("sample", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
ALIGNMENT = 8
"""Samples begin at multiples of this, so that numbers in them can be read where they lie."""
PAGE_SIZES = [1 << bits for bits in range(21, 32)]
"""Those that FFCV accepts."""

JPEG, RAW = 0, 1
"""How an image is stored (`mode`)."""


class Field(NamedTuple):
    """What a sample is to FFCV."""

    type_id: int
    about: np.dtype
    """A sample's row: where it lies (`ptr`) and what else there is to know."""
    arguments: bytes = b""


IMAGE = Field(2, np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("ptr", "<u8")]))
"""RGB of any size: JPEG, or rows of pixels (H, W, 3)."""
BYTES = Field(3, np.dtype([("ptr", "<u8"), ("size", "<u8")]))
LABEL = Field(1, np.dtype("<i8"))


def array(shape: Sequence[int]) -> Field:
    """Arrays of bytes, all of one shape."""
    header = np.zeros(33, "<u8")
    element = json.dumps(np.dtype("u1").descr).encode()
    header[: len(shape)], header[32] = shape, len(element)
    return Field(4, np.dtype([("ptr", "<u8")]), header.tobytes() + element)


def rows(field: Field) -> np.dtype:
    """The type of a sample's row in the file."""
    return np.dtype([("sample", field.about), ("label", LABEL.about)], align=True)


def page_size(largest_sample: int) -> int:
    """The smallest page that holds several samples of this many bytes, or at least one.

    Raises ValueError for a sample that is larger than any page.
    """
    if largest_sample > PAGE_SIZES[-1]:
        raise ValueError(f"a sample of {largest_sample} bytes is larger than FFCV can store ({PAGE_SIZES[-1]})")
    return next((size for size in PAGE_SIZES if size >= 4 * largest_sample), PAGE_SIZES[-1])


def file_bytes(field: Field, num_samples: int, sample_bytes: int, page_size: int) -> int:
    """What a file takes at most whose samples all have that many bytes."""
    step = _aligned(sample_bytes, ALIGNMENT)
    per_page = max(1, (page_size - sample_bytes) // step + 1)
    lost = (num_samples // per_page + 1) * max(0, page_size - per_page * step)
    return _start(field, num_samples) + num_samples * (step + REGION.itemsize) + lost + step


def journal(file: Path) -> Path:
    """Where a writer of `file` keeps what it needs to go on after a crash."""
    return file.with_name(f"{file.name}.journal")


class Writer:
    """Writes samples one after the other; the same samples make the same file to the byte.

    `mark()` makes what was added so far survive a crash: a writer of the same file then goes on behind it. A file
    counts when `finish()` has returned; the journal beside it may then go.
    """

    def __init__(self, file: Path, field: Field, num_samples: int, page_size: int):
        self._path, self._journal = file, journal(file)
        self._field, self._page_size = field, page_size
        self._rows = np.zeros(num_samples, rows(field))
        self._sizes = np.zeros(num_samples, "<u8")
        self.done = self._marked = 0
        """Samples that are in the file, and those of them that survive a crash."""
        self.notes: list[Any] = []
        """What was given to each `mark`, of plain values."""
        self._end = _start(field, num_samples)
        self._resume()
        self._file = file.open("r+b" if self.done else "wb")
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def add(self, payload: np.ndarray, label: int, **about: int) -> None:
        """Append one sample: its bytes, its class and the other entries of its row.

        Raises ValueError for a sample that is larger than a page.
        """
        size = payload.nbytes
        if size > self._page_size:
            raise ValueError(
                f"sample {self.done} takes {size} bytes, more than a page of {self._path.name} ({self._page_size})"
            )
        ptr = _aligned(self._end, ALIGNMENT)
        if ptr // self._page_size != (ptr + max(size, 1) - 1) // self._page_size:
            ptr = _aligned(ptr, self._page_size)
        self._file.write(bytes(ptr - self._end) if ptr - self._end < 4096 else b"")
        self._file.seek(ptr)  # a gap as large as most of a page takes no room on the disk
        self._file.write(np.ascontiguousarray(payload).data)
        row = self._rows[self.done]
        row["label"] = label
        for key, value in {**about, "ptr": ptr}.items():
            row["sample"][key] = value
        if "size" in (self._field.about.names or ()):
            row["sample"]["size"] = size
        self._sizes[self.done] = size
        self._end, self.done = ptr + size, self.done + 1

    def mark(self, note: Any = None) -> None:
        """Make the samples added so far survive a crash, with a note for whoever goes on."""
        self._file.flush()
        os.fsync(self._file.fileno())
        added = slice(self._marked, self.done)
        content = self._rows[added].tobytes() + self._sizes[added].tobytes()
        entry = {"of": len(self._rows), "done": self.done, "end": self._end, "page_size": self._page_size, "note": note}
        head = json.dumps(entry | {"sha256": hashlib.sha256(content).hexdigest()})
        with self._journal.open("ab") as file:
            file.write(head.encode() + b"\n" + content)
            file.flush()
            os.fsync(file.fileno())
        self._marked = self.done
        self.notes.append(note)

    def finish(self) -> None:
        """Write tables and header. Raises ValueError when samples are missing."""
        if self.done != len(self._rows):
            raise ValueError(f"{self._path} holds {self.done} of {len(self._rows)} samples")
        table = np.zeros(self.done, REGION)
        table["sample"], table["ptr"], table["size"] = np.arange(self.done), self._rows["sample"]["ptr"], self._sizes
        position = _aligned(self._end, ALIGNMENT)
        self._file.seek(position)
        self._file.write(table.tobytes())
        header = np.zeros((), HEADER)
        header["version"], header["num_fields"], header["page_size"] = VERSION, 2, self._page_size
        header["num_samples"], header["table"] = self.done, position
        self._file.seek(0)
        self._file.write(header.tobytes() + _descriptions(self._field) + self._rows.tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _resume(self) -> None:
        """Go on behind the last mark that is whole, of this very file; later entries of the journal go."""
        size, valid = self._path.stat().st_size if self._path.is_file() else 0, 0
        for entry, content in _entries(self._journal, self._rows.itemsize):
            ours = (entry["of"], entry["page_size"]) == (len(self._rows), self._page_size)
            if not ours or entry["end"] > size:
                break
            added, bytes_of_rows = slice(self.done, entry["done"]), (entry["done"] - self.done) * self._rows.itemsize
            self._rows[added] = np.frombuffer(content[:bytes_of_rows], self._rows.dtype)
            self._sizes[added] = np.frombuffer(content[bytes_of_rows:], "<u8")
            self.done, self._end, valid = entry["done"], entry["end"], entry["behind"]
            self.notes.append(entry["note"])
        self._marked = self.done
        if self._journal.is_file():
            os.truncate(self._journal, valid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


@dataclass(frozen=True)
class File:
    """A .beton file, mapped into memory."""

    path: Path
    page_size: int
    about: np.ndarray
    """A row for each sample (N,), as the field lays it out."""
    labels: np.ndarray
    """Classes (N,), int64."""
    sizes: np.ndarray
    """Bytes of each sample (N,), uint64."""
    data: np.ndarray
    """The whole file as bytes; a sample's begin at `about["ptr"]`."""

    def payload(self, index: int) -> np.ndarray:
        """The bytes of one sample, where they lie."""
        start = int(self.about["ptr"][index])
        return self.data[start : start + int(self.sizes[index])]


def read(path: Path) -> File:
    """Open a file that `Writer` has finished. Raises ValueError for any other."""
    data = np.memmap(path, np.uint8, mode="r")
    fields = {field.type_id: field for field in (IMAGE, BYTES, array(()))}
    try:
        header = data[: HEADER.itemsize].view(HEADER)[0]
        first = data[HEADER.itemsize :][: DESCRIPTION.itemsize].view(DESCRIPTION)[0]
        count, start = int(header["num_samples"]), HEADER.itemsize + 2 * DESCRIPTION.itemsize
        kind = rows(fields[int(first["type_id"])])
        if (header["version"], header["num_fields"]) != (VERSION, 2):
            raise ValueError("another version or other fields")
        samples = data[start : start + count * kind.itemsize].view(kind)
        table = data[int(header["table"]) :].view(REGION)
        if len(samples) != count or not np.array_equal(table["ptr"], samples["sample"]["ptr"]):
            raise ValueError("cut short")
    except (IndexError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a finished .beton file ({error})") from error
    return File(path, int(header["page_size"]), samples["sample"], samples["label"], table["size"], data)


def marked(file: Path, field: Field) -> int:
    """The number of samples that a writer of `file` could go on behind, as its journal says."""
    done = [entry["done"] for entry, _ in _entries(journal(file), rows(field).itemsize)]
    return done[-1] if done and file.is_file() else 0


def _entries(file: Path, itemsize: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """What a journal says, entry by entry (and where each ends, as `behind`), up to one that was not written whole."""
    if not file.is_file():
        return
    before = 0
    with file.open("rb") as content:
        while line := content.readline():
            try:
                entry = json.loads(line)
                added = content.read((entry["done"] - before) * (itemsize + 8))
                whole = hashlib.sha256(added).hexdigest() == entry["sha256"]
            except (ValueError, KeyError, TypeError):
                whole = False
            if not whole:
                return
            before = entry["done"]
            yield entry | {"behind": content.tell()}, added


def _start(field: Field, num_samples: int) -> int:
    """Where the first sample may begin: behind header, descriptions and rows."""
    return _aligned(HEADER.itemsize + 2 * DESCRIPTION.itemsize + num_samples * rows(field).itemsize, ALIGNMENT)


def _descriptions(field: Field) -> bytes:
    both = np.zeros(2, DESCRIPTION)
    for described, (name, of) in zip(both, {"sample": field, "label": LABEL}.items(), strict=True):
        described["type_id"] = of.type_id
        described["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
        described["arguments"][: len(of.arguments)] = np.frombuffer(of.arguments, np.uint8)
    return both.tobytes()


def _aligned(position: int, to: int) -> int:
    return -(-position // to) * to
