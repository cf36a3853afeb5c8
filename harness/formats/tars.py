"""Files inside tar archives, and inside tar archives in these, read where they lie without extracting anything."""

import tarfile
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """A file in an archive."""

    archive: Path
    name: str
    offset: int
    """Where its content begins in the outermost archive."""
    size: int

    def __str__(self) -> str:
        return f"{self.name} in {self.archive}"


def entries(archive: Path, inside: Entry | None = None) -> list[Entry]:
    """The files of an archive without compression, or of the archive that is `inside` it; sorted by name.

    Raises ValueError for one that is damaged or cut short.
    """
    where = inside or archive
    try:
        with archive.open("rb") as file:
            file.seek(inside.offset if inside else 0)
            end = inside.offset + inside.size if inside else archive.stat().st_size
            with tarfile.TarFile(fileobj=file) as content:
                found = [Entry(archive, each.name, each.offset_data, each.size) for each in content if each.isfile()]
    except tarfile.TarError as error:
        raise ValueError(f"{where} is not a whole tar archive ({error})") from error
    if any(each.offset + each.size > end for each in found):
        raise ValueError(f"{where} is cut short: its last file is not whole")
    return sorted(found, key=lambda each: each.name)


def read(entry: Entry) -> bytes:
    """The content of a file in an archive."""
    with entry.archive.open("rb") as file:
        file.seek(entry.offset)
        return file.read(entry.size)
