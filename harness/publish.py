"""From a sweep's records to what people look at: the files beside them, the terminal's table, MLflow."""

from pathlib import Path
from typing import Any

import yaml

from harness import plots, published, storage, tables
from harness.config import Experiment
from harness.record import Record

PLOTS = {
    "accuracy": ("svg", "png"),
    "training": ("svg",),
    "firing": ("svg",),
    "early-exit": ("svg",),
    "convergence": ("svg",),
}
"""Kind -> formats, as far as there is something to draw."""
FILES = ("experiment.yaml", "table.md", "table.csv", *plots.names(PLOTS))
"""What a sweep writes beside its records."""


def write(experiment: Experiment, records: list[Record]) -> list[Path]:
    """Write the resolved experiment, tables and plots into the experiment's folder and return their paths."""
    folder = experiment.folder
    storage.make_folder(folder)
    resolved = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    storage.write_atomic(folder / "experiment.yaml", resolved)
    return [folder / "experiment.yaml", *views(folder, records)]


def views(folder: Path, records: list[Record]) -> list[Path]:
    """Write tables and plots of the records into a folder and return their paths."""
    texts = {f"table.{format}": rendered(records, format) for format in ("md", "csv")}
    for name, text in texts.items():
        storage.write_atomic(folder / name, text)
    return [*(folder / name for name in texts), *draw(records, folder)]


def draw(records: list[Record], folder: Path) -> list[Path]:
    """Draw everything that the records hold into a folder and return the paths."""
    return plots.write(records, folder, PLOTS, published=published.shipped())


def table(records: list[Record], *, anytime: bool = False) -> Any:
    """The table as a rich renderable; `anytime` adds accuracy after every step of the longest simulations."""
    return tables.terminal(records, published=published.shipped(), anytime=anytime)


def rendered(records: list[Record], format: str, *, anytime: bool = False) -> str:
    """The table as text in one of the formats of `harness.tables`."""
    return tables.render(records, format, published=published.shipped(), anytime=anytime)  # type: ignore[arg-type]


def track(records: list[Record], paths: list[Path], uri: str | None) -> str:
    """Send records and the files beside them to MLflow and return what to tell the user.

    Raises TrackingError when MLflow cannot be written to.
    """
    from harness import tracking

    folders = {path.parent if storage.is_file(path) else path for path in paths}
    folders |= {file.parent for folder in folders for file in storage.files(folder, "experiment.yaml")}
    changed = 0
    remarks: list[str] = []
    for name in sorted({result.experiment for result in records}):
        there = {folder: storage.names(folder) for folder in folders if folder.name == name}
        files = [folder / file for folder, present in there.items() for file in FILES if file in present]
        ours = [result for result in records if result.experiment == name]
        sent = tracking.resend(ours, uri, name, files, there)
        changed, remarks = changed + sent.changed, remarks + sent.remarks
    return "\n".join([f"{changed} of {len(records)} records were new or had changed", *remarks])
