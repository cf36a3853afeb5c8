"""Jobs as rows: what a cluster knows of them, what they wrote themselves, a table of them."""

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.table import Table

from harness.job import Status

if TYPE_CHECKING:  # imports Ray
    from harness.jobs import Job

COLUMNS = ("job", "experiment", "state", "exit_code", "trials", "started", "ended")


def of_file(told: Status) -> dict[str, Any]:
    """A job as it told of itself beside its results."""
    state = told.state if told.exit_code is None else f"{told.state}, exit code {told.exit_code}"
    return {
        "job": told.job, "experiment": told.experiment, "state": state, "exit_code": told.exit_code,
        "trials": _trials(told), "started": told.started, "ended": told.ended, "reason": told.reason,
        "command": told.command, "results": told.results,
    }  # fmt: skip


def of_job(found: "Job", log: str = "") -> dict[str, Any]:
    """What the cluster knows of a job, with what the job wrote itself if that is within reach, else its log told."""
    from harness import jobs

    told = found.status()
    code = jobs.exit_code(found, told) if found.is_over else None
    counted = re.findall(r"^\[(\d+)/(\d+)\] ", log, re.MULTILINE)
    planned = "{} of {}".format(*counted[-1]) if counted else None
    if planned is None and "trials" in found.metadata:
        planned = f"? of {found.metadata['trials']}"
    return {
        "job": found.id, "experiment": found.metadata.get("experiment"), "state": found.state, "exit_code": code,
        "trials": _trials(told) if told else planned, "started": _time(found.started), "ended": _time(found.ended),
        "reason": told.reason if told else None, "command": told.command if told else found.command,
        "results": found.metadata.get("results"),
    }  # fmt: skip


def _trials(told: Status) -> str | None:
    if told.trials is None:
        return None
    outcomes = ", ".join(f"{number} {outcome}" for outcome, number in told.outcomes.items())
    return f"{told.done} of {told.trials}" + (f" ({outcomes})" if outcomes else "")


def _time(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None


def shown(rows: list[dict[str, Any]]) -> Table:
    """The rows as a terminal table."""
    table = Table(*(column.replace("_", " ") for column in COLUMNS), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if row[column] is None else str(row[column]) for column in COLUMNS))
    return table
