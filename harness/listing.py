"""What `harness list` and `harness validate` show: names, settings, configs and plans as rows."""

import itertools
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

import harness
from harness import backlog, plugins
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
        about = (module.__doc__ or "").strip().partition("\n\n")[0]
        row = {"name": name, "about": " ".join(about.split())}
        if kind == "networks":
            row["options"] = _pairs(module.NETWORKS[name].model_dump())
        rows.append(row)
    return rows


def settings(method: str) -> list[Row]:
    """Every hyperparameter of a method: default, what is allowed, search range, meaning, source."""
    rows = []
    for name, field in plugins.load("methods", method).Config.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        unit = f" [{extra['unit']}]" if "unit" in extra else ""
        rows.append(
            {
                "setting": name,
                "default": field.default,
                "allowed": ", ".join(_bound(bound) for bound in field.metadata) or _type_name(field.annotation),
                "search": _range(extra.get("search")),
                "meaning": f"{field.description or ''}{unit}",
                "source": extra.get("source", ""),
            }
        )
    return rows


def plan(experiment: Experiment, trials: list[Trial]) -> Row:
    """What a sweep would do: one row a trial, and how many have a record."""
    done = backlog.finished(trials, experiment.folder)
    rows = [
        {
            "id": trial.id,
            "method": trial.label,
            "network": trial.network.name,
            "T": trial.time_steps,
            "v_threshold": trial.settings.get("v_threshold", ""),
            "seed": trial.seed,
            "epochs": trial.train.epochs,
            **({"lr": _scaled_lr(trial)} if any(each.train.lr_scaling for each in trials) else {}),
            **({"starts from": trial.start.name if trial.start else ""} if any(each.start for each in trials) else {}),
            "state": done[trial.id].outcome if trial.id in done else "to do",
        }
        for trial in trials
    ]
    return {"trials": rows, "done": len(done), "points_per_study": experiment.sweep.trials}


def _scaled_lr(trial: Trial) -> str:
    """The learning rate of a trial and, where it follows the batch size, how it comes about."""
    from harness import optim

    train, scale = trial.train, optim.lr_scale(trial.train)
    if train.lr_scaling is None:
        return f"{train.lr:g}"
    sizes = f"{train.batch_size} / {train.lr_scaling.reference}"
    factor = sizes if train.lr_scaling.rule == "linear" else f"sqrt({sizes})"
    return f"{train.lr * scale:g} = {train.lr:g} x {factor}"


def shown(rows: list[Row], title: str) -> Table:
    """Rows as a terminal table."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for key in rows[0] if rows else ():
        table.add_column(key, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    return table


def _configs() -> list[Path]:
    folders = [Path(folder) / "configs" for folder in harness.__path__]
    return sorted(file for folder in folders for file in folder.glob("*.yaml"))


def _comment(file: Path) -> str:
    """What an experiment file says about itself: its first comment, up to the command."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), file.read_text().splitlines())
    said = " ".join(line.removeprefix("#").strip() for line in lines)
    return said.partition("Command:")[0].strip()


def _range(search: Any) -> str:
    if not isinstance(search, dict):
        return ""
    if search.get("choices"):
        return " | ".join(map(str, search["choices"]))
    return f"{search['low']:g} … {search['high']:g}" + (" (log)" if search.get("log") else "")


def _bound(bound: Any) -> str:
    """A bound of annotated_types, such as `Gt(gt=0)`, as one would write it."""
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return ", ".join(f"{sign} {getattr(bound, key)}" for key, sign in signs.items() if hasattr(bound, key)) or str(
        bound
    )


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if get_origin(annotation) is Annotated:
        return ", ".join(_bound(bound) for about in get_args(annotation)[1:] for bound in about.metadata)
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(_type_name(part) for part in get_args(annotation))
    return "none" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))


def _pairs(options: Row) -> str:
    return ", ".join(f"{key}={list(value) if isinstance(value, tuple) else value}" for key, value in options.items())
