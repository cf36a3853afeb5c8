"""The folder that a page is written into: ours or empty, every file whole, and nothing left of an earlier page."""

import json
import re
from pathlib import Path

from harness import storage

MARKER = ".harness-report.json"
"""Names what we wrote, so that a later page replaces it and nothing else."""
OURS = re.compile(r"index\.html|[a-z]+\.(js|css)|data/(index|(cells|records)/[0-9a-f]{2})\.js")


class Place:
    """A page being written. Files are listed in the marker before they are there, so that a cut-off page can be redone.

    Raises ValueError where the folder holds something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before = _earlier(folder)
        self.written: set[str] = set()

    def open(self, names: set[str]) -> None:
        """Claim the folder for these files."""
        storage.make_folder(self.folder)
        self._mark(self.before | names)

    def write(self, name: str, content: str | bytes) -> None:
        """Write one file, whole or not at all."""
        assert OURS.fullmatch(name), name
        file = self.folder / name
        storage.make_folder(file.parent)
        storage.write_atomic(file, content)
        self.written.add(name)

    def close(self) -> None:
        """Take away what an earlier page had and this one has not."""
        for name in self.before - self.written:
            (self.folder / name).unlink(missing_ok=True)
        self._mark(self.written)

    def _mark(self, names: set[str]) -> None:
        storage.write_atomic(self.folder / MARKER, json.dumps({"files": sorted(names)}, indent=1) + "\n")


def _earlier(folder: Path) -> set[str]:
    """The files of an earlier page in this folder."""
    if storage.is_remote(folder):
        raise ValueError(f"{folder}: a report is written into a folder of this machine; copy it from there")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; name a folder for the report")
    if not folder.exists() or not any(folder.iterdir()):
        return set()
    try:
        names = json.loads((folder / MARKER).read_text())["files"]
        return {name for name in names if OURS.fullmatch(name)}
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{folder}: holds other files and no earlier report; name an empty or a new folder") from None
