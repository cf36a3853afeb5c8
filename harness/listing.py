"""What `harness list` and `harness validate` show: names, settings, configs and plans as rows."""

from pathlib import Path
from typing import Any

from rich.table import Table

import harness
from harness import plugins, sweep
from harness.config import Experiment
from harness.plan import Trial

Row = dict[str, Any]


def names(kind: str) -> list[Row]:
    """Every method, dataset, network or config with the first line that it says about itself."""
    if kind == "configs":
        return [{"name": str(file), "about": _comment(file)} for file in _configs()]
    rows = []
    for name in plugins.names(kind):  # type: ignore[arg-type]
        module = plugins.load(kind, name)  # type: ignore[arg-type]
        about = (module.__doc__ or "").strip().splitlines()
        rows.append({"name": name, "about": about[0] if about else ""})
    return rows


def settings(method: str) -> list[Row]:
    """Every hyperparameter of a method: default, bounds, search range, unit, meaning, source."""
    rows = []
    for name, field in plugins.load("methods", method).Config.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        bounds = [repr(bound).removeprefix("annotated_types.") for bound in field.metadata]
        rows.append(
            {
                "setting": name,
                "default": field.default,
                "allowed": ", ".join(bounds) or _type_name(field.annotation),
                "search": _range(extra.get("search")),
                "unit": extra.get("unit", ""),
                "meaning": field.description or "",
                "source": extra.get("source", ""),
            }
        )
    return rows


def plan(experiment: Experiment, trials: list[Trial]) -> Row:
    """What a sweep would do: one row a trial, and how many have a record."""
    done = sweep.finished(trials, experiment.folder)
    rows = [
        {
            "id": trial.id,
            "method": trial.label,
            "network": trial.network.name,
            "T": trial.time_steps,
            "v_threshold": trial.settings.get("v_threshold", ""),
            "seed": trial.seed,
            "epochs": trial.train.epochs,
            "state": done[trial.id].outcome if trial.id in done else "to do",
        }
        for trial in trials
    ]
    return {"trials": rows, "done": len(done), "points_per_study": experiment.sweep.trials}


def shown(rows: list[Row], title: str) -> Table:
    """Rows as a terminal table."""
    table = Table(title=title, title_justify="left")
    for key in rows[0] if rows else ():
        table.add_column(key, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table


def _configs() -> list[Path]:
    folders = [Path(folder) / "configs" for folder in harness.__path__]
    return sorted(file for folder in folders for file in folder.glob("*.yaml"))


def _comment(file: Path) -> str:
    first = file.read_text().partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _range(search: Any) -> str:
    if not isinstance(search, dict):
        return ""
    if search.get("choices"):
        return " | ".join(map(str, search["choices"]))
    return f"{search['low']:g} … {search['high']:g}" + (" (log)" if search.get("log") else "")


def _type_name(annotation: Any) -> str:
    return (
        getattr(annotation, "__name__", None)
        if isinstance(annotation, type)
        else str(annotation).replace("typing.", "")
    )
