"""One MLflow experiment, open for writing: a run for each sweep, and within it one for each of its trials."""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from harness import storage
from harness.record import Record
from harness.tracking import datasets, measures, models
from harness.tracking.server import TrackingError, alone, client, database, sentence, translated

FORMAT = 2
"""Of what is sent; a run that was sent in another is sent again."""
MOST_METRICS, MOST_PARAMS = 1000, 100
"""What a server takes in one request."""


class Mirror:
    """Writes to one experiment. Every failure leaves as a TrackingError."""

    def __init__(self, uri: str, experiment: str) -> None:
        self._uri = uri
        with translated(), alone(uri):
            self._client = client(uri)
            self._experiment = _experiment(self._client, uri, experiment)
        self._parents: dict[str, str] = {}
        """Sweep -> run id."""
        self._unstored: str | None = None
        """Why the server's store of files did not take one; then no more are tried with the records."""

    def add(self, record: Record) -> bool:
        """Send a record; False when the same was there already."""
        with translated():
            parent = self._parent(record)
            mine = {"harness.trial": record.id, "mlflow.parentRunId": parent}
            for known in self._found(mine):
                if known.data.tags.get("harness.digest") == digest(record):
                    return False
                # Half sent, or of a record that was replaced since.
                self._client.delete_run(known.info.run_id)
            run, is_ours = self._made(mine, lambda: self._child(record, parent))
            if not is_ours:
                return False
            self._fill(run, record)
            return True

    def end(self, records: Sequence[Record], folders: Iterable[Path], files: Iterable[Path]) -> list[str]:
        """Send the files, register the best network, end the runs of the sweeps; returns what to tell the user."""
        remarks = [f"MLflow did not take the records' files: {self._unstored}"] if self._unstored else []
        with translated():
            try:
                for file in files:
                    with storage.on_this_machine(file) as here:
                        for parent in self._parents.values():
                            self._client.log_artifact(parent, str(here))
                remarks += self._register(records, list(folders))
            finally:
                for parent in self._parents.values():
                    self._client.set_terminated(parent, "FINISHED")
        return remarks

    def _register(self, records: Sequence[Record], folders: Sequence[Path]) -> list[str]:
        if not folders:
            return []
        remarks = []
        for choice in models.best(records):
            if isinstance(choice, str):
                remarks.append(choice)
                continue
            parent = self._parent(choice.record)
            runs = self._found({"harness.trial": choice.record.id, "mlflow.parentRunId": parent})
            with alone(self._uri):
                remark = models.register(self._client, self._experiment, runs[0].info.run_id, choice, folders)
            remarks += [remark] if remark else []
        return remarks

    def _fill(self, run: str, record: Record) -> None:
        started = _milliseconds(record)
        self._log(run, record, started)
        if found := datasets.inputs(record):
            self._client.log_inputs(run, found)
        self._store(run, record)
        # Last, for it says that nothing is missing.
        self._client.set_tag(run, "harness.digest", "" if self._unstored else digest(record))
        status = "FINISHED" if record.outcome in ("done", "skipped") else "FAILED"
        self._client.set_terminated(run, status, end_time=started + int(1000 * (record.wall_seconds or 0)))

    def _store(self, run: str, record: Record) -> None:
        """The record itself. Files go another way than figures, and where that is closed, figures still go."""
        if self._unstored:
            return
        try:
            text = record.model_dump_json(indent=1, exclude_none=True) + "\n"
            self._client.log_text(run, text, "record.json")
        except Exception as error:  # noqa: BLE001 - each kind of store fails in its own way
            self._unstored = sentence(error)

    def _child(self, record: Record, parent: str) -> str:
        trial = record.trial
        name = f"{trial.get('label', '')} T={trial.get('time_steps')} seed={trial.get('seed')}"
        tags = {"mlflow.parentRunId": parent, **measures.tags(record)}
        run = self._client.create_run(self._experiment, start_time=_milliseconds(record), tags=tags, run_name=name)
        return run.info.run_id

    def _parent(self, record: Record) -> str:
        """The sweep's run, made when there is none: a sweep is an experiment at a commit."""
        commit = record.commit or "unknown"
        sweep = f"{record.experiment}@{commit}"
        if sweep in self._parents:
            return self._parents[sweep]
        tags = {"harness.sweep": sweep, "experiment": record.experiment, "commit": commit}
        if record.commit:
            tags["mlflow.source.git.commit"] = commit
        name = f"{record.experiment} @ {commit[:7]}"

        def made() -> str:
            return self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id

        with alone(self._uri):
            known = self._found({"harness.sweep": sweep})
            run = known[0].info.run_id if known else self._made({"harness.sweep": sweep}, made)[0]
        self._parents[sweep] = run
        return run

    def _made(self, tags: Mapping[str, str], make: Callable[[], str]) -> tuple[str, bool]:
        """The one run with these tags once it was made, and whether it is the one that we made.

        Another process may make the same at the same moment: both then see both, and keep the same one.
        """
        run = make()
        first, *others = sorted(known.info.run_id for known in self._found(tags))
        for other in others:
            self._client.delete_run(other)
        return first, run == first

    def _found(self, tags: Mapping[str, str]) -> Sequence[Any]:
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        return self._client.search_runs([self._experiment], condition)

    def _log(self, run: str, record: Record, started: int) -> None:
        from mlflow.entities import Metric, Param

        pairs = [Param(key, value) for key, value in measures.params(record).items()]
        points = [
            Metric(point.name, point.value, started + int(1000 * point.seconds), point.step)
            for point in measures.metrics(record)
        ]
        for start in range(0, len(pairs), MOST_PARAMS):
            self._client.log_batch(run, params=pairs[start : start + MOST_PARAMS])
        for start in range(0, len(points), MOST_METRICS):
            self._client.log_batch(run, metrics=points[start : start + MOST_METRICS])


def digest(record: Record) -> str:
    """What tells a record that was sent from every other one."""
    return hashlib.sha256(f"{FORMAT} {record.model_dump_json()}".encode()).hexdigest()


def _experiment(client: Any, uri: str, name: str) -> str:
    """The experiment's id; beside a local database its files go to `mlruns` in the same folder."""
    found = client.get_experiment_by_name(name)
    if found:
        if found.lifecycle_stage != "active":
            raise TrackingError(f"experiment '{name}' was deleted: `mlflow experiments restore`, or another name")
        return found.experiment_id
    file = database(uri)
    place = (file.parent / "mlruns" / name).as_uri() if file else None
    return client.create_experiment(name, place, tags={"mlflow.experimentKind": "custom_model_development"})


def _milliseconds(record: Record) -> int:
    """When the trial started, since 1970. From the record, so that sending twice gives the same run."""
    return int(1000 * (datetime.fromisoformat(record.started).timestamp() if record.started else time.time()))
