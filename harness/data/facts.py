"""What `harness data info` says about a dataset."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from harness.data import disk, prepared
from harness.data.prepare import partial_folder
from harness.data.source import Source

STORED = {
    "pixels": "pixels, decoded, all of one shape",
    "images": "whole images, cropped when they are read",
    "events": "events, made into frames when they are read: one file for every number of time steps",
}
NOWHERE = Path(os.devnull) / "nowhere"
"""A root that cannot be: what is found there does not depend on roots."""
ELSEWHERE = "here; not looked for below HARNESS_DATA"


def facts(source: Source) -> dict[str, Any]:
    """Everything known, as plain values; what is not there is null."""
    info, folder = source.info, prepared.folder(source)
    found, unfinished = prepared.find(source, set()), partial_folder(folder)
    return {
        "name": source.name,
        "title": info.title,
        "samples": dict(info.sizes),
        "shape": list(info.shape),
        "classes": info.classes,
        "names": list(info.names),
        "stored": info.stored,
        "options": source.kept,
        "raw": _raw(source),
        "files": {remote.path: list(remote.urls) for remote in source.files},
        "prepared": None
        if found is None
        else {
            "folder": str(found.folder),
            "bytes": found.manifest.size_bytes,
            "files": {name: file.size_bytes for name, file in found.manifest.files.items()},
            "fingerprint": found.fingerprint,
        },
        "unfinished": {"folder": str(unfinished), "bytes": _bytes(unfinished)} if unfinished.is_dir() else None,
        "source": info.source,
        "licence": info.licence,
        "citation": info.citation,
    }


def shown(facts: Mapping[str, Any]) -> Table:
    """The facts as a terminal table."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    channels, height, width = facts["shape"]
    names = f": {', '.join(facts['names'])}" if 0 < len(facts["names"]) <= 20 else ""
    rows = {
        "dataset": f"{facts['title']} ({facts['name']})",
        "samples": ", ".join(f"{number} {split}" for split, number in facts["samples"].items()),
        "shape": f"{channels} x {height} x {width}",
        "classes": f"{facts['classes']}{names}",
        "stored as": STORED[facts["stored"]],
        "options": ", ".join(f"{key}={value}" for key, value in facts["options"].items()),
        "raw data": ELSEWHERE if facts["raw"] == "elsewhere" else facts["raw"] or _missing(facts),
        "prepared": _prepared(facts),
        "fingerprint": facts["prepared"]["fingerprint"] if facts["prepared"] else "",
        "source": facts["source"],
        "licence": facts["licence"],
        "citation": facts["citation"],
    }
    for key, value in rows.items():
        if value:
            table.add_row(key, escape(value))
    return table


def _raw(source: Source) -> str | None:
    """The root below which the raw data are; None: they are not here."""
    root = source.root()
    if root is None:
        return None
    return "elsewhere" if source.is_below(NOWHERE) else str(root)


def _missing(facts: Mapping[str, Any]) -> str:
    if facts["files"]:
        return "not here; `harness data prepare` downloads them, or set HARNESS_DATA to a folder that holds them"
    return "not here; set HARNESS_DATA to a folder that holds them"


def _prepared(facts: Mapping[str, Any]) -> str:
    found, unfinished = facts["prepared"], facts["unfinished"]
    started = f"{disk.size(unfinished['bytes'])} unfinished in {unfinished['folder']}" if unfinished else ""
    if found is None:
        return f"no; {started}" if started else f"no; `harness data prepare {facts['name']}`"
    sizes = ", ".join(f"{name} {disk.size(size)}" for name, size in found["files"].items())
    return f"{found['folder']}, {disk.size(found['bytes'])} ({sizes})" + (f"; {started}" if started else "")


def _bytes(folder: Any) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
