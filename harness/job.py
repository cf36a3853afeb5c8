"""What a command knows of the Ray job that it runs in, and the file beside the results that says how the job went.

The driver writes it, so that it is there also when nobody follows the job any more, or its cluster is gone.
"""

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import typer
from pydantic import BaseModel, ValidationError

from harness import interrupt, provenance, storage
from harness.config import Experiment
from harness.experiment_file import ConfigError
from harness.record import Record

log = logging.getLogger(__name__)

FOLDER = "jobs"
"""Inside an experiment's folder."""
RESULTS = "HARNESS_RESULTS"
"""Where, on a cluster, a relative `results` stands: a folder that every node sees, or an object store's."""


class Status(BaseModel):
    """How a job went, so far or in the end."""

    job: str
    experiment: str
    results: str
    command: str
    state: Literal["running", "ended"] = "running"
    exit_code: int | None = None
    reason: str | None = None
    """One line on why it did not end well."""
    started: str
    """ISO 8601, UTC; so is `ended`."""
    ended: str | None = None
    trials: int | None = None
    """All trials of the command, those measured before included."""
    outcomes: dict[str, int] = {}
    """Outcome -> trials that ended so; `before` are those that earlier commands measured."""
    commit: str | None = None
    dirty: bool | None = None

    @property
    def done(self) -> int:
        """Trials that have a record."""
        return sum(self.outcomes.values())


def current() -> str | None:
    """The id of the job that this process is the driver of; None outside a job."""
    return _config().get("metadata", {}).get("job_submission_id")


def variables() -> dict[str, str]:
    """The variables that the job's own environment sets, here and in its workers."""
    return (_config().get("runtime_env") or {}).get("env_vars") or {}


def _config() -> dict[str, Any]:
    # Ray's own name for it, as odd as it looks.
    return json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")


def placed(experiment: Experiment) -> Experiment:
    """The experiment with its results where they outlive the job: below HARNESS_RESULTS if they are relative.

    Raises ConfigError where there is no such place. MLflow is left out where its file would be thrown away likewise.
    Outside a job nothing changes.
    """
    if current() is None:
        return experiment
    tracking = experiment.tracking
    if tracking.mlflow and not (tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")):
        log.warning(
            "MLflow: no server is named (tracking.uri or MLFLOW_TRACKING_URI), so nothing is sent from this job"
        )
        experiment = experiment.model_copy(update={"tracking": tracking.model_copy(update={"mlflow": False})})
    place = experiment.results
    if storage.is_remote(place) or Path(place).expanduser().is_absolute():
        return experiment
    root = os.environ.get(RESULTS)
    if not root:
        raise ConfigError(
            f"results: '{place}' is relative and would be thrown away with the job's folder; name a folder that every "
            f"node sees or an object store (--set results=/shared/results), or set {RESULTS} on the nodes"
        )
    return experiment.model_copy(update={"results": f"{root.rstrip('/')}/{place}"})


class Kept:
    """Keeps a job's status file as a sweep goes on; watches it as `harness.sweep.Watcher`."""

    def __init__(self, status: Status) -> None:
        self.status = status

    def plan(self, trials: int, ahead: int) -> None:
        """So many trials were planned, and so many are to run now: of a search, more than were planned."""
        trials = max(trials, ahead)
        self.status.trials = trials
        self.status.outcomes = {"before": trials - ahead} if trials > ahead else {}
        self.write()

    def epoch(self, trial_id: str, epoch: int, metrics: dict[str, Any]) -> None:
        """Nothing: trials are counted, not epochs."""

    def finished(self, result: Record) -> None:
        """Count a trial."""
        self.status.outcomes[result.outcome] = self.status.outcomes.get(result.outcome, 0) + 1
        self.write()

    def ended(self, exit_code: int, reason: str | None) -> None:
        """The command is about to end."""
        self.status.state, self.status.exit_code, self.status.reason = "ended", exit_code, reason
        self.status.ended = _now()
        self.write()

    def write(self) -> None:
        """Replace the file in one step."""
        file = path(self.status)
        file.parent.mkdir(parents=True, exist_ok=True)
        storage.write_atomic(file, self.status.model_dump_json(indent=1, exclude_none=True) + "\n")


@contextmanager
def kept(experiment: Experiment) -> Iterator[Kept | None]:
    """Keep the status file of the job that this process is, if it is one, until the block ends, however it does."""
    if (name := current()) is None:
        yield None
        return
    commit, dirty = provenance.commit()
    keeper = Kept(Status(
        job=name, experiment=experiment.name, results=experiment.results, command=provenance.command(), started=_now(),
        commit=commit, dirty=dirty,
    ))  # fmt: skip
    with interrupt.raised():
        keeper.write()
        try:
            yield keeper
        except BaseException as error:
            keeper.ended(*_meaning(error))
            raise
        keeper.ended(0, None)


def _meaning(error: BaseException) -> tuple[int, str | None]:
    """The exit code that an exception becomes, and a line about it."""
    match error:
        case typer.Exit():
            return error.exit_code, "some trials failed; their records say why" if error.exit_code == 3 else None
        case SystemExit():
            return (error.code if isinstance(error.code, int) else 1), None
        case interrupt.Interrupted():
            return error.exit_code, f"stopped by {error}"
        case ConfigError():
            return 2, str(error)
    return 1, f"{type(error).__name__}: {error}".splitlines()[0]


def path(status: Status) -> Path:
    """Where a job's status file stands."""
    return storage.at(status.results) / status.experiment / FOLDER / f"{status.job}.json"


def find(results: str, name: str | None = None) -> list[Status]:
    """Status files below a results folder, of one job or of all, oldest first."""
    root = storage.at(results)
    if not root.exists():
        return []
    found = []
    for file in root.glob(f"*/{FOLDER}/{name or '*'}.json"):
        try:
            found.append(Status.model_validate_json(file.read_text()))
        except (ValidationError, OSError) as error:
            raise ConfigError(f"{file}: no status of a job: {str(error).splitlines()[0]}") from error
    return sorted(found, key=lambda status: status.started)


def hides_nothing(overrides: list[str] | None) -> None:
    """Raise ConfigError when an override names a password, which Ray's log of the command would show."""
    for override in overrides or []:
        if re.search(r"://[^/@\s]+:[^/@\s]*@", override):
            key = override.partition("=")[0]
            raise ConfigError(
                f"--set {key}: holds a password, which logs and records would show; "
                "take it out and forward, say, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD by --env"
            )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
