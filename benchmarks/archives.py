"""Archives of images under HARNESS_DATA, unpacked into the cache."""

import zipfile
from pathlib import Path

from harness.data.source import cache, roots


def unpacked(name: str) -> Path | None:
    """The folder that `name`.zip was unpacked into, now or before; None where there is no such archive."""
    folder = cache() / "raw" / name
    if folder.is_dir():
        return folder
    archive = next((root / f"{name}.zip" for root in roots() if (root / f"{name}.zip").is_file()), None)
    if archive is None:
        return None
    partial = folder.with_suffix(".partial")
    zipfile.ZipFile(archive).extractall(partial)
    partial.rename(folder)
    return folder
