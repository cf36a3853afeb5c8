"""Records from files, one batch at a time: what cells need stays in memory, all the rest as the text that is shown."""

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from harness import record, storage
from harness.command import short
from harness.record import Record

BATCH = 256


@dataclass(frozen=True)
class Found:
    """A record, and what the page shows of it."""

    record: Record
    """Without its history but for the sum of its seconds, which is all that a cell shows of it: epochs are most of a
    record, and of ten thousand records they fill the memory."""
    text: str
    """The whole record as JSON, its history as columns."""


def found(paths: Iterable[Path]) -> Iterator[Found]:
    """Every record under the given files and folders. Raises ValueError naming what is no record or not there."""
    for given in paths:
        if storage.is_file(given):
            yield _found(record.read(given), given)
            continue
        files = storage.files(given, ".json")
        if not files and not storage.exists(given):
            raise ValueError(f"{given}: no such file or folder")
        for folder, inside in groupby(files, key=lambda file: file.parent):
            ids = [file.stem for file in inside if record.is_id(file.stem)]
            for start in range(0, len(ids), BATCH):
                for name, read in record.of(ids[start : start + BATCH], folder).items():
                    yield _found(read, record.path(folder, name))


def _found(read: Record, file: Path) -> Found:
    content = json.loads(read.model_dump_json(exclude_none=True))
    content["history"] = _columns(content["history"])
    content["path"] = short(file)
    content["reproduce"] = f"harness reproduce {shlex.quote(short(file))}"
    seconds = sum(epoch.seconds for epoch in read.history)
    summed = [read.history[-1].model_copy(update={"seconds": seconds})] if read.history else []
    slim = read.model_copy(update={"history": summed})
    return Found(slim, json.dumps(content, separators=(",", ":"), allow_nan=False))


def _columns(rows: list[dict[str, Any]]) -> dict[str, list]:
    """Column -> value in every epoch; what a method logs besides gets columns of its own."""
    flat = [{key: value for key, value in row.items() if key != "extras"} | row.get("extras", {}) for row in rows]
    names = dict.fromkeys(name for row in flat for name in row)
    return {name: [row.get(name) for row in flat] for name in names}


def readable(content: Any) -> Any:
    """The same with figures that JSON cannot hold as words: a loss that is infinite is shown, and nothing breaks."""
    if isinstance(content, float) and content - content != 0:
        return str(content)
    if isinstance(content, dict):
        return {str(key): readable(value) for key, value in content.items()}
    return [readable(value) for value in content] if isinstance(content, list | tuple) else content
