"""A bundle: one ZIP file that holds results for a paper's appendix, or for another machine to merge.

Records byte for byte, tables and plots made from them, the environments they come from, and a checksum of every file.
The same records give the same bundle, byte for byte.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness import cells, publish, record, storage
from harness.config.experiment import Name
from harness.record import Record
from harness.reproduce import trial_of

CHECKSUMS = "SHA256SUMS"
RECORDS = "records"
LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The date of every file in a bundle; a ZIP file can hold none earlier."""
FORMATS = {"csv": "csv", "html": "html", "md": "md", "tex": "latex"}
"""Ending -> format of the tables in a bundle."""
LARGEST_BYTES = 64 * 2**20
"""Of one file of a bundle that is read; a record of a thousand epochs has less than a hundredth."""

README = """\
# {title}

{count} records of {experiments}, made by snn-harness {versions}.

- `{records}/<experiment>/<id>.json`: one trial each: configuration, seed, commit, machine, history, figures.
- `table.*`, `plots/`: made from these records; `harness table {records}` makes the tables again.
- `environments.json`: the commits, package versions and machines that the records come from, with their counts.
- `{checksums}`: verify with `sha256sum --check {checksums}`.

Run one of them again: `harness reproduce {records}/<experiment>/<id>.json`.
Merge them into other results: `harness import <this file>`.
"""


@dataclass(frozen=True)
class Merge:
    """Records that are to be merged into a folder of results, beside what stands there."""

    new: Mapping[Path, bytes]
    """Where each record comes to stand, and its bytes."""
    known: tuple[str, ...]
    """Ids of those that stand there already, byte for byte."""
    other: tuple[str, ...]
    """Ids of trials that have another record there."""
    dirty: tuple[str, ...]
    """Ids of those new ones that were measured with uncommitted changes."""
    unknown: tuple[str, ...]
    """Ids of those new ones that know no commit."""


def write(target: Path, files: Iterable[Path]) -> int:
    """Write a bundle of these records and return their number.

    Raises ValueError for a file that is no record, or two different ones of one trial.
    """
    found: dict[str, bytes] = {}
    records: list[Record] = []
    for file, content in _contents(files):
        each = record.parsed(str(file), content)
        name = f"{RECORDS}/{each.experiment}/{each.id}.json"
        if found.setdefault(name, content) != content:
            raise ValueError(f"{file}: another record of the trial {each.id} is among those given; export one of them")
        records.append(each)
    once = list({each.id: each for each in records}.values())
    members = {**found, **_views(once)}
    members["README.md"] = _readme(once).encode()
    members[CHECKSUMS] = _checksums(members).encode()
    storage.write_atomic(target, _zipped(members))
    return len(found)


def merge(places: Iterable[Path], results: Path) -> Merge:
    """What merging bundles, records or folders of them into `results` would do; nothing is written.

    Raises ValueError naming the file for a bundle that is damaged, for what is no record, and for a record whose id is
    not that of its trial.
    """
    new: dict[Path, bytes] = {}
    known: list[str] = []
    other: list[str] = []
    dirty: list[str] = []
    unknown: list[str] = []
    for place in places:
        for name, content in _given(place):
            each = _checked(name, content)
            target = record.path(results / each.experiment, each.id)
            there = new.get(target) or (target.read_bytes() if storage.exists(target) else None)
            if there is not None:
                (known if there == content else other).append(each.id)
                continue
            new[target] = content
            if each.commit is None:
                unknown.append(each.id)
            elif each.dirty:
                dirty.append(each.id)
    return Merge(new, tuple(known), tuple(other), tuple(dirty), tuple(unknown))


def apply(merge: Merge) -> list[Path]:
    """Write the new records, make the tables and plots beside them again, and return the folders."""
    for target, content in merge.new.items():
        storage.make_folder(target.parent)
        storage.write_atomic(target, content)
    folders = sorted({target.parent for target in merge.new})
    for folder in folders:
        publish.views(folder, list(record.read_all([folder])))
    return folders


def _contents(files: Iterable[Path]) -> Iterable[tuple[Path, bytes]]:
    listed = list(files)
    return zip(listed, storage.contents(listed), strict=True)


def _views(records: list[Record]) -> dict[str, bytes]:
    """Tables and plots of the records, and where they come from."""
    texts = {f"table.{suffix}": publish.rendered(records, format) for suffix, format in FORMATS.items()}
    texts["environments.json"] = json.dumps(_environments(records), indent=1) + "\n"
    with TemporaryDirectory() as folder:
        drawn = {f"plots/{file.name}": file.read_bytes() for file in publish.draw(records, Path(folder))}
    return {name: text.encode() for name, text in texts.items()} | drawn


def _environments(records: Iterable[Record]) -> list[dict[str, Any]]:
    counts: dict[str, int] = {}
    for each in records:
        shared = {"commit": each.commit, "dirty": each.dirty, "versions": each.versions, "machine": each.machine}
        text = json.dumps(shared, sort_keys=True)
        counts[text] = counts.get(text, 0) + 1
    return [{"records": counts[text], **json.loads(text)} for text in sorted(counts)]


def _readme(records: list[Record]) -> str:
    experiments = sorted({each.experiment for each in records})
    datasets = sorted({cell.dataset for cell in cells.of(records)})
    versions = sorted({each.versions.get("harness", "unknown") for each in records})
    return README.format(
        title=f"Results on {', '.join(datasets)}", count=len(records), experiments=", ".join(experiments),
        versions=", ".join(versions), records=RECORDS, checksums=CHECKSUMS,
    )  # fmt: skip


def _checksums(members: Mapping[str, bytes]) -> str:
    return "".join(f"{hashlib.sha256(members[name]).hexdigest()}  {name}\n" for name in sorted(members))


def _zipped(members: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name, LONG_AGO), members[name], zipfile.ZIP_DEFLATED)
    return content.getvalue()


def _given(place: Path) -> Iterable[tuple[str, bytes]]:
    """Name and bytes of every record of a bundle, a folder or a file."""
    if place.suffix == ".zip":
        return [(f"{place}: {name}", content) for name, content in _unzipped(place).items()]
    if storage.is_file(place):
        return [(str(place), place.read_bytes())]
    if not storage.exists(place):
        raise ValueError(f"{place}: no such bundle, record or folder")
    files = [file for file in storage.files(place, ".json") if record.is_id(file.stem)]
    return [(str(file), content) for file, content in _contents(files)]


def _unzipped(place: Path) -> dict[str, bytes]:
    """The records of a bundle, after every file was checked against its checksum."""
    try:
        with zipfile.ZipFile(place) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            if large := next((name for name, size in sizes.items() if size > LARGEST_BYTES), None):
                raise ValueError(f"{place}: {large} has {sizes[large]} bytes, which no file of a bundle has")
            members = {name: archive.read(name) for name in sizes}
    except FileNotFoundError:
        raise ValueError(f"{place}: no such bundle") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{place}: not a whole ZIP file ({error})") from error
    if CHECKSUMS not in members:
        raise ValueError(f"{place}: not a bundle of harness export (no {CHECKSUMS})")
    given = members.pop(CHECKSUMS).decode(errors="replace")
    if given != _checksums(members):
        raise ValueError(f"{place}: damaged or changed: its files do not have the checksums in {CHECKSUMS}")
    inside = {name: content for name, content in members.items() if PurePosixPath(name).parts[0] == RECORDS}
    return {name: content for name, content in inside.items() if name.endswith(".json")}


def _checked(name: str, content: bytes) -> Record:
    """A record that may be written under the names that it gives itself."""
    each = record.parsed(name, content)
    try:
        TypeAdapter(Name).validate_python(each.experiment)
    except ValidationError as error:
        raise ValueError(f"{name}: experiment: {error.errors()[0]['msg']}") from error
    if (expected := trial_of(each).id) != each.id:
        raise ValueError(f"{name}: its id is {each.id}, but that of its trial is {expected}: changed by hand?")
    return each
