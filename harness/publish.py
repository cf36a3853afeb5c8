"""From a sweep's records to what people look at: the files beside them, the terminal's table, MLflow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

import harness
from harness import plots, record, select, tables
from harness.config import Experiment
from harness.record import Record


def write(experiment: Experiment, records: list[Record]) -> list[Path]:
    """Write the resolved experiment, tables and plots into the experiment's folder and return their paths."""
    folder = experiment.folder
    folder.mkdir(parents=True, exist_ok=True)
    resolved = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    texts = {"experiment.yaml": resolved, "table.md": rendered(records, "md"), "table.csv": rendered(records, "csv")}
    for name, text in texts.items():
        record.write_atomic(folder / name, text)
    drawn = plots.accuracy_against_latency(records, folder, published=published()) if select.cells(records) else []
    return [folder / name for name in texts] + drawn


def table(records: list[Record]) -> Any:
    """The table as a rich renderable."""
    return tables.terminal(records, published=published())


def rendered(records: list[Record], format: str) -> str:
    """The table as text in one of the formats of `harness.tables`."""
    return tables.render(records, format, published=published())  # type: ignore[arg-type]


def as_json(records: list[Record]) -> str:
    """The table as JSON."""
    return rendered(records, "json")


def published() -> list[Any]:
    """Figures from papers, where this installation has them."""
    folders = [Path(folder) / "results" / "published" for folder in harness.__path__]
    return [row for folder in folders if folder.is_dir() for row in tables.published(folder)]


class Tracker:
    """Watches a sweep and mirrors its records to MLflow in the background."""

    def __init__(self, experiment: Experiment) -> None:
        from harness import tracking

        self.mirror = tracking.Tracker(experiment.tracking.uri, experiment.name)

    def epoch(self, trial_id: str, epoch: int, metrics: dict[str, Any]) -> None:
        """Epochs travel with their record."""

    def finished(self, result: Record) -> None:
        """A trial has its record."""
        self.mirror.send(result)

    def finish(self, files: list[Path]) -> list[str]:
        """Send the sweep's files, wait for what is under way, and return what went wrong, one line each."""
        self.mirror.artifacts(files)
        return self.mirror.close(timeout=60)


@contextmanager
def tracker(experiment: Experiment) -> Iterator[Tracker | None]:
    """A tracker for the length of a sweep, or None where the experiment wants none."""
    yield Tracker(experiment) if experiment.tracking.mlflow else None


def track(records: list[Record], paths: list[Path], uri: str | None) -> str:
    """Send records and the files beside them to MLflow and return what to tell the user."""
    from harness import tracking

    names = sorted({result.experiment for result in records})
    for name in names:
        folders = [path if path.is_dir() else path.parent for path in paths]
        artifacts = [
            file for folder in folders for file in sorted(folder.glob("*"))
            if file.name in {"experiment.yaml", "table.md", "table.csv", "accuracy.svg", "accuracy.png"}
        ]  # fmt: skip
        tracking.resend([r for r in records if r.experiment == name], uri, name, artifacts)
    return f"sent {len(records)} records of {', '.join(names)}"
