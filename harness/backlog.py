"""What has still to run, and what can: judged by the records and weights that are on disk."""

from collections.abc import Iterable
from pathlib import Path

from harness import checkpoint, record, stages, storage
from harness.experiment_file import ConfigError
from harness.plan import Trial
from harness.record import Outcome, Record
from harness.trial import Run, blank, lost

FINAL = {"done", "diverged", "skipped"}
"""Outcomes that a repeated command does not try again; a failed trial gets another chance."""


def finished(trials: Iterable[Trial], folder: Path) -> dict[str, Record]:
    """Records of those trials that need not run again, by id."""
    found = record.of([trial.id for trial in trials], folder)
    return {name: result for name, result in found.items() if result.outcome in FINAL}


def due(trials: Iterable[Trial], folder: Path) -> list[Trial]:
    """The trials that have to run: those without a record, and what they start from where that has none either."""
    wanted = list(trials)
    concerned = {each.id: each for trial in wanted for each in [trial, *stages.lineage(trial)]}
    measured = finished(concerned.values(), folder)
    return stages.due(wanted, lambda trial: trial.id in measured)


def split(trials: Iterable[Trial], shared: Run) -> tuple[list[Trial], list[Record]]:
    """The trials whose start is there, and for each of the others its record, just written, which says why it is not.

    After a failure that record is `failed` too, so that both are tried again.
    """
    startable, blocked = [], []
    for trial in trials:
        if trial.start is None or (before := _record(trial.start, shared)).outcome == "done":
            startable.append(trial)
            continue
        outcome: Outcome = "failed" if before.outcome == "failed" else "skipped"
        reason = f"starts from {trial.start.name}, which is '{before.outcome}': {before.reason}"
        result = blank(trial, shared, outcome, reason)
        record.write(result, storage.at(shared.folder))
        blocked.append(result)
    return startable, blocked


def refuse_lost_weights(missing: list[Trial], shared: Run) -> None:
    """Raise ConfigError for a trial due to run that starts from a measured one whose weights are gone.

    They are not trained again unasked: that may take days where copying them takes a minute.
    """
    names = {trial.id for trial in missing}
    for trial in missing:
        if trial.start is None or trial.start.id in names or checkpoint.exists(shared.checkpoints(trial)):
            continue
        if _record(trial.start, shared).outcome == "done" and not shared.weights(trial.start).exists():
            raise ConfigError(lost(trial.start, shared))


def _record(trial: Trial, shared: Run) -> Record:
    return record.read(record.path(storage.at(shared.folder), trial.id))
