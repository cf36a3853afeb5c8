"""What a job ships: the harness as it stands here and the experiment file, without data, results or secrets.

In a checkout that is its tracked and untracked files; without one, the installed package. The commit travels as a
note in a file, since `.git` does not. The same files make the same archive, which a cluster takes only once.
"""

import json
import os
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from rich.filesize import decimal

import harness
from harness import provenance
from harness.experiment_file import ConfigError

MOST_BYTES = 100 * 2**20
"""What Ray's dashboard takes in one upload."""
LARGE_BYTES = 10 * 2**20
"""A file from here on is data, whatever its name."""
SUBMITTED = ".submitted"
"""Folder in the parcel for an experiment file that is not among the files of the checkout."""
FOLDERS = frozenset({
    ".git", ".venv", "venv", "node_modules", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".cache",
    ".hypothesis", ".ipynb_checkpoints", ".tox", ".nox", "mlruns", "mlartifacts", "checkpoints", ".aws", ".ssh",
})  # fmt: skip
"""Left out wherever they stand."""
TOP_FOLDERS = frozenset({"data", "build", "dist", "results"})
"""Left out at the top of a checkout; published figures below `results` travel, as tables need them."""
FILES = (
    "*.beton", "*.pt", "*.pth", "*.ckpt", "*.safetensors", "*.db", "*.db-*", "*.db.lock", "*.sqlite*", "*.pyc", "*.log",
    "*.zip", "*.tar", "*.tar.*", "*.tgz", "*.whl", "*.h5", "*.hdf5", "*.npy", "*.npz", "*.aedat*", "*.parquet",
    ".env", ".env.*", ".netrc", "*.pem", "*.key", "id_rsa*", "id_ed25519*", "auth_token", "credentials*",
)  # fmt: skip
"""Left out by name: data, weights, packed files, and what may hold a secret."""


@dataclass(frozen=True)
class Parcel:
    """The files of a job, by their names in it."""

    root: Path
    files: dict[str, Path]
    experiment: str
    """The experiment file's name in the parcel."""
    note: provenance.Shipped
    too_large: list[Path] = field(default_factory=list)
    """Left out for their size."""

    @property
    def size_bytes(self) -> int:
        """Of all files, before they are compressed."""
        return sum(file.stat().st_size for file in self.files.values())

    def described(self) -> str:
        """One line: what travels, its size, from which commit; and what is left out for its size."""
        commit = f", commit {self.note.commit[:12]}" if self.note.commit else ""
        changed = ", with changes that are not committed" if self.note.dirty else ""
        left = f"; too large and left out: {', '.join(map(str, self.too_large))}" if self.too_large else ""
        return f"{len(self.files)} files, {decimal(self.size_bytes)} of {self.root}{commit}{changed}{left}"


def gather(experiment: Path, exclude: Sequence[str] = ()) -> Parcel:
    """The parcel for an experiment file, which may lie anywhere.

    `exclude` names further files and folders, as patterns of their paths in the checkout.
    """
    root = Path(harness.__file__).parent.parent
    names = [name for name in _names(root) if not _left_out(name)]
    # A virtual environment may have any name; what it holds is found on the nodes.
    environments = [str(Path(name).parent) for name in names if Path(name).name == "pyvenv.cfg"]
    names = [name for name in names if not _matches(name, [*exclude, *environments])]
    sizes = {name: (root / name).stat().st_size for name in names}
    files = {name: root / name for name in names if sizes[name] < LARGE_BYTES}
    inside = os.path.relpath(experiment.resolve(), root.resolve())
    name = inside if inside in files else f"{SUBMITTED}/{experiment.name}"
    files[name] = experiment
    commit, dirty = provenance.commit()
    return Parcel(
        root, dict(sorted(files.items())), name, provenance.Shipped(commit=commit, dirty=dirty),
        [Path(name) for name, size in sizes.items() if size >= LARGE_BYTES],
    )  # fmt: skip


def pack(parcel: Parcel, archive: Path) -> int:
    """Write the archive and return its size in bytes.

    Raises ConfigError naming the largest files when a cluster would not take it.
    """
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name, file in parcel.files.items():
            target.writestr(_entry(name, executable=os.access(file, os.X_OK)), file.read_bytes())
        target.writestr(_entry(provenance.NOTE), json.dumps(parcel.note._asdict()))
    size = archive.stat().st_size
    if size > MOST_BYTES:
        largest = sorted(parcel.files, key=lambda name: parcel.files[name].stat().st_size, reverse=True)[:3]
        shown = ", ".join(f"{name} ({decimal(parcel.files[name].stat().st_size)})" for name in largest)
        raise ConfigError(
            f"{parcel.root}: the job would ship {decimal(size)}, and Ray takes {decimal(MOST_BYTES)}; "
            f"leave files out with --exclude (largest: {shown})"
        )
    return size


def _entry(name: str, *, executable: bool = False) -> zipfile.ZipInfo:
    """Without a date: the same files shall make the same archive."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (0o100755 if executable else 0o100644) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _names(root: Path) -> Iterator[str]:
    """Files that may travel, as paths below `root`: git's view of a checkout, else what lies there."""
    if (root / "harness" / "methods").is_dir():  # installed, among other packages
        yield from _walked(root, root / "harness")
    elif (listed := _listed(root)) is not None:
        yield from (name for name in listed if (root / name).is_file())
    else:
        yield from _walked(root, root)


def _listed(root: Path) -> list[str] | None:
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return sorted({name for name in output.split("\0") if name})


def _walked(root: Path, top: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(top):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not _left_out(f"{here / name}/")]
        yield from (str(here / name) for name in files if Path(folder, name).is_file())


def _left_out(name: str) -> bool:
    parts = Path(name).parts
    if FOLDERS & set(parts) or any(part.endswith(".egg-info") for part in parts):
        return True
    # `results/published/` is on the way to what stays.
    if parts[0] in TOP_FOLDERS and (*parts, "")[:2] not in {("results", "published"), ("results", "")}:
        return True
    return not name.endswith("/") and (
        parts == ("results",) or any(fnmatch(parts[-1].lower(), pattern) for pattern in FILES)
    )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern fits a path or one of the folders that it is in."""
    ways = [name, *map(str, Path(name).parents)]
    return any(fnmatch(way, pattern.rstrip("/")) for way in ways for pattern in patterns)
