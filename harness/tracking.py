"""Mirrors records to MLflow: one parent run a sweep, one child run a trial. The files stay the truth, MLflow the view.

Everything is found again by tags, so that sending a record twice changes nothing.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from harness import storage
from harness.cell import flatten
from harness.record import Record

LONGEST_VALUE = 500
"""Characters of a parameter that every MLflow server takes; longer ones are cut and say so."""
MOST_METRICS, MOST_PARAMS = 1000, 100
"""What a server takes in one request."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
"""After a failure nothing is sent for so long; twice as long after each further one."""
# MLflow's own defaults wait for minutes, report usage to its makers, and print URIs, credentials and all, to stdout.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class TrackingError(Exception):
    """MLflow could not be written to; the message holds no credentials."""


class Tracker:
    """Sends records in a background thread for the length of a sweep; training never waits for it.

    What could not be sent is kept and sent later, after growing pauses; what is still left at the end is named, and
    `harness track` sends it then.
    """

    def __init__(self, uri: str | None, experiment: str) -> None:
        """`uri` as MLflow takes it; by default MLFLOW_TRACKING_URI, else `mlflow.db` in the current folder."""
        self._uri = uri or default_uri()
        self._experiment = experiment
        self._changed = threading.Condition()
        self._unsent: deque[Record] = deque()
        self._queued: set[str] = set()
        self._files: list[Path] = []
        self._closing = False
        self._problem: str | None = None
        # A daemon: a server that hangs must not keep the sweep from ending.
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def epoch(self, trial_id: str, epoch: int, metrics: dict[str, Any]) -> None:
        """Nothing: epochs travel with their trial's record."""

    def finished(self, result: Record) -> None:
        """Queue a record; returns at once and never raises."""
        with self._changed:
            self._queued.add(result.id)
            self._unsent.append(result)
            self._changed.notify()

    def ensure(self, results: Iterable[Record]) -> None:
        """Queue those of a sweep's records that were not: of an earlier command, which may not have sent them."""
        for result in results:
            if result.id not in self._queued:
                self.finished(result)

    def artifacts(self, paths: Iterable[Path]) -> None:
        """Files for the sweep's own run, sent at the end."""
        self._files += paths

    def close(self, timeout: float) -> list[str]:
        """Try a last time, for up to `timeout` seconds, and return what went wrong, one line each."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._problem = f"no answer within {timeout:g} s"
        left = [record.id for record in list(self._unsent)]
        if self._problem is None and not left:
            return []
        named = left or [path.name for path in self._files] or ["the sweep's end"]
        return [
            f"MLflow at {public(self._uri)}: {self._problem}",
            f"not sent to MLflow: {', '.join(named)}; `harness track <path>` sends it again",
        ]

    def _run(self) -> None:
        mirror, pause = None, 0.0
        while self._next(pause):
            try:
                mirror = mirror or _Mirror(self._uri, self._experiment)
                mirror.add(self._unsent[0])
            except TrackingError as error:
                self._problem, pause = str(error), min(max(2 * pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
                self._unsent.rotate(-1)  # it may be this record that the server does not take
                if self._closing:
                    break
            else:
                self._unsent.popleft()
                self._problem, pause = None, 0.0
        self._finish(mirror)

    def _next(self, pause: float) -> bool:
        """Wait for something to send, after a failure also for the pause to pass; False at the end."""
        with self._changed:
            if pause:
                self._changed.wait_for(lambda: self._closing, pause)
            self._changed.wait_for(lambda: self._unsent or self._closing)
            return bool(self._unsent)

    def _finish(self, mirror: "_Mirror | None") -> None:
        """The last attempt: what is left but for what has just failed, then the files."""
        try:
            for _ in range(len(self._unsent) - 1 if self._problem and mirror else 0):
                mirror.add(self._unsent[0])  # type: ignore[union-attr]
                self._unsent.popleft()
            if mirror:
                mirror.add(self._files)
                mirror.finish()
        except TrackingError as error:
            self._problem = self._problem or str(error)


def resend(records: Iterable[Record], uri: str | None, experiment: str, artifacts: Iterable[Path] = ()) -> int:
    """Send records and files now and return how many records were new or had changed.

    Raises TrackingError when MLflow cannot be written to.
    """
    mirror = _Mirror(uri or default_uri(), experiment)
    num_new = sum(mirror.add(record) for record in records)
    mirror.add(list(artifacts))
    mirror.finish()
    return num_new


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, else the database that a plain `mlflow ui` in the current folder shows."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def public(text: str) -> str:
    """The text with user, password and query of every URI in it left out."""
    return re.sub(r"(://[^\s?]*)\?\S*", r"\1?…", re.sub(r"://\S*@", "://…@", text))


class _Mirror:
    """One MLflow experiment, open for writing. Every failure leaves as a TrackingError."""

    def __init__(self, uri: str, experiment: str) -> None:
        self._uri = uri
        with _translated(), _alone(uri):
            self._client = _client(uri)
            self._experiment = _experiment(self._client, uri, experiment)
        self._parents: dict[str, str] = {}
        """Sweep -> run id."""

    def add(self, job: Record | list[Path]) -> bool:
        """Send a record or files; False when the same record was there already."""
        with _translated():
            if isinstance(job, Record):
                return self._add_record(job)
            for parent in self._parents.values():
                for path in job:
                    with storage.on_this_machine(path) as file:
                        self._client.log_artifact(parent, str(file))
            return True

    def finish(self) -> None:
        """End the runs of the sweeps."""
        with _translated():
            for parent in self._parents.values():
                self._client.set_terminated(parent, "FINISHED")

    def _add_record(self, record: Record) -> bool:
        parent = self._parent(record)
        digest = hashlib.sha256(record.model_dump_json().encode()).hexdigest()
        mine = {"harness.trial": record.id, "mlflow.parentRunId": parent}
        for known in self._found(mine):
            if known.data.tags.get("harness.digest") == digest:
                return False
            # Half sent, or of a record that was replaced since.
            self._client.delete_run(known.info.run_id)
        started = _milliseconds(record)
        tags = {"mlflow.parentRunId": parent, **_tags(record)}
        name = f"{record.trial.get('label', '')} T={record.trial.get('time_steps')} seed={record.trial.get('seed')}"
        run = self._client.create_run(self._experiment, start_time=started, tags=tags, run_name=name).info.run_id
        # Another sweep may have sent the same at the same moment: both then see both, and keep the same one.
        first, *others = sorted(known.info.run_id for known in self._found(mine))
        for other in others:
            self._client.delete_run(other)
        if run != first:
            return False
        self._log(run, params(record), metrics(record), started)
        # Last, for it says that nothing is missing.
        self._client.set_tag(run, "harness.digest", digest)
        status = "FINISHED" if record.outcome in ("done", "skipped") else "FAILED"
        self._client.set_terminated(run, status, end_time=started + int(1000 * (record.wall_seconds or 0)))
        return True

    def _parent(self, record: Record) -> str:
        """The sweep's run, made when there is none: a sweep is an experiment at a commit."""
        sweep = f"{record.experiment}@{record.commit or 'unknown'}"
        if sweep in self._parents:
            return self._parents[sweep]
        with _alone(self._uri):
            known = self._found({"harness.sweep": sweep})
            tags = {"harness.sweep": sweep, "experiment": record.experiment, "commit": record.commit or "unknown"}
            name = f"{record.experiment} @ {(record.commit or 'unknown')[:7]}"
            run = known[0] if known else self._client.create_run(self._experiment, tags=tags, run_name=name)
        self._parents[sweep] = run.info.run_id
        return run.info.run_id

    def _found(self, tags: Mapping[str, str]) -> Sequence[Any]:
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        return self._client.search_runs([self._experiment], condition)

    def _log(self, run: str, params: Mapping[str, str], metrics: Sequence[tuple[str, float, int]], when: int) -> None:
        from mlflow.entities import Metric, Param

        pairs = [Param(key, value) for key, value in params.items()]
        points = [Metric(key, value, when, step) for key, value, step in metrics]
        for start in range(0, len(pairs), MOST_PARAMS):
            self._client.log_batch(run, params=pairs[start : start + MOST_PARAMS])
        for start in range(0, len(points), MOST_METRICS):
            self._client.log_batch(run, metrics=points[start : start + MOST_METRICS])


def params(record: Record) -> dict[str, str]:
    """The trial, flat, as MLflow's parameters: 'settings.v_threshold' -> '1.0'."""
    return {_key(key): _cut(value if isinstance(value, str) else json.dumps(value, default=str))
            for key, value in flatten(record.trial).items()}  # fmt: skip


def metrics(record: Record) -> list[tuple[str, float, int]]:
    """(name, value, step) of everything measured: step is the epoch, for `accuracy_at_t` it is t, else 0."""
    found: list[tuple[str, float | None, int]] = []
    for epoch in record.history:
        numbers = epoch.model_dump(exclude={"epoch", "extras"})
        numbers |= {f"extras/{key}": value for key, value in epoch.extras.items()}
        found += [(f"epoch/{key}", value, epoch.epoch) for key, value in numbers.items()]
    found += [("accuracy_at_t", value, t) for t, value in sorted(record.accuracy.items())]
    found += [(name, value, 0) for name, value in _totals(record).items()]
    return [(_key(name), float(value), step) for name, value, step in found if value is not None]


def _totals(record: Record) -> dict[str, float | None]:
    cost = record.cost
    totals: dict[str, float | None] = {
        "test_accuracy": record.accuracy.get(record.trial.get("time_steps", 0)),
        "test_loss": record.test_loss,
        "validation_accuracy": record.validation_accuracy,
        "selected_epoch": record.selected_epoch,
        "wall_seconds": record.wall_seconds,
        "restarts": record.restarts,
        "cost/parameters": cost.parameters,
        "cost/samples_per_second": cost.throughput,
        "cost/peak_memory_bytes": cost.peak_memory_bytes,
        "cost/synops": cost.synops,
        "cost/macs": cost.macs,
        "cost/energy_nanojoules": cost.energy.nanojoules if cost.energy else None,
    }
    for entry in cost.latency:
        place = f"cost/latency/batch {entry.batch_size} T {entry.time_steps}"
        totals |= {f"{place}/median_ms": entry.median_ms, f"{place}/p95_ms": entry.p95_ms}
    return totals | {f"cost/firing_rate/{layer}": rate for layer, rate in cost.firing_rates.items()}


def _tags(record: Record) -> dict[str, str]:
    tags = {
        "harness.trial": record.id,
        "experiment": record.experiment,
        "outcome": record.outcome,
        "commit": record.commit or "unknown",
        "dirty": str(record.dirty).lower() if record.dirty is not None else "unknown",
        "selection": record.selection,
        "dataset": str(record.data.get("title", "")),
    }
    if record.reason:
        tags |= {"reason": _cut(record.reason), "mlflow.note.content": _cut(f"{record.outcome}: {record.reason}")}
    return tags


def _client(uri: str) -> Any:
    """MLflow's client for the URI; makes the database where there is none, so see `_alone`."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    # They announce every table that they make, and every attempt of the many that we make.
    for name, level in {"mlflow": logging.WARNING, "alembic": logging.WARNING, "urllib3": logging.ERROR}.items():
        logging.getLogger(name).setLevel(level)
    return MlflowClient(uri)


def _experiment(client: Any, uri: str, name: str) -> str:
    """The experiment's id; beside a local database its files go to `mlruns` in the same folder."""
    found = client.get_experiment_by_name(name)
    if found:
        return found.experiment_id
    database = _database(uri)
    return client.create_experiment(name, (database.parent / "mlruns" / name).as_uri() if database else None)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Keep other processes out of a local database: two that make it at once break its tables, or make a run twice."""
    if (database := _database(uri)) is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with open(database.with_name(f"{database.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _database(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever a server does must not cost a training run
        # Cut after the credentials are out, lest half of a password stay; and no cause, which would print them.
        text = public(" ".join(str(error).split()))
        raise TrackingError(f"{type(error).__name__}: {text[:300]}") from None


def _milliseconds(record: Record) -> int:
    """When the trial started, since 1970. From the record, so that sending twice gives the same run."""
    return int(1000 * (datetime.fromisoformat(record.started).timestamp() if record.started else time.time()))


def _key(name: str) -> str:
    """The name with only what MLflow allows in one."""
    return re.sub(r"[^\w./ :-]", "_", name, flags=re.ASCII)[:250]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 12]}… (cut off)"
