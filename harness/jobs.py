"""Jobs on a Ray cluster, from outside: submitted, followed, looked at, stopped, through the dashboard's address."""

import asyncio
import logging
import os
import queue
import shlex
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from harness import authentication, cluster, job, sealed
from harness.experiment_file import ConfigError
from harness.job import Status

GRACE_SECONDS = 120
"""Between the signal to stop and the kill: what trials need to save themselves. Ray's own default is 3."""
PATIENCE_SECONDS = 60.0
"""For so long a lost connection is tried again."""
BEAT_SECONDS = 5.0
"""Between two looks at a job that says nothing."""
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
"""A dashboard on this machine, or the near end of a tunnel."""

State = Literal["pending", "running", "succeeded", "failed", "stopped"]


class Lost(Exception):
    """The cluster does not answer any more; the job may well go on."""


class Refused(Exception):
    """The cluster answers, but not with what was asked for."""


@dataclass(frozen=True)
class Job:
    """A job as the cluster sees it."""

    id: str
    state: State
    exit_code: int | None
    """None while it runs, and where the cluster does not know, as after a stop."""
    message: str
    command: str
    started: float | None
    """Seconds since 1970; so is `ended`."""
    ended: float | None
    metadata: Mapping[str, str]

    @property
    def is_over(self) -> bool:
        """Whether it will not change any more."""
        return self.state in {"succeeded", "failed", "stopped"}

    def status(self) -> Status | None:
        """What the driver wrote beside the results, if that place is within reach from here."""
        results = self.metadata.get("results")
        try:
            found = job.find(results, self.id) if results else []
        except (OSError, ImportError, ConfigError):
            return None
        return found[0] if found else None


class Cluster:
    """A cluster's jobs.

    Raises ConfigError at once where nothing answers or the two sides differ about tokens. Afterwards every method
    raises Lost when the cluster does not answer, and Refused with its answer when it says no.
    """

    def __init__(self, address: str) -> None:
        self.address = address if address.startswith(("http://", "https://")) else f"http://{address}"
        authentication.agree(self.address)
        cluster.prepare_environment()
        from ray.job_submission import JobSubmissionClient

        for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Ray remembers the first token that it has seen.
        token = authentication.token() if authentication.wanted() else None
        headers = {"Authorization": f"Bearer {token}"} if token else None
        with _asked(self.address), _without("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
            self._client = JobSubmissionClient(self.address, headers=headers)
        # Ray's client waits for ever for an answer.
        self._client._do_request = partial(self._client._do_request, timeout=PATIENCE_SECONDS)

    def submit(
        self, arguments: Sequence[str], archive: Path, metadata: Mapping[str, str], *, python: str = "python",
        forwarded: Mapping[str, str] | None = None,
    ) -> str:  # fmt: skip
        """Start `python -m harness ARGUMENTS` in the unpacked archive on the cluster's head, and return the job's id.

        `forwarded` are environment variables for all of its processes; they travel sealed.
        """
        environment: dict[str, Any] = {
            "working_dir": str(archive),
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_SECONDS)},
        }
        if forwarded:
            token = authentication.token() if authentication.wanted() else None
            if token is None:
                raise ConfigError("--env needs token authentication: without a token Ray would log the values as text")
            environment["env_vars"][sealed.VARIABLE] = sealed.seal(forwarded, token)
            environment["worker_process_setup_hook"] = sealed.HOOK
        # A name of our own: should the answer be lost, the job can be found, and is not submitted twice.
        name = f"harness-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        with _asked(self.address):
            return self._client.submit_job(
                entrypoint=shlex.join([*shlex.split(python), "-m", "harness", *arguments]), submission_id=name,
                runtime_env=environment, metadata=dict(metadata),
            )  # fmt: skip

    def jobs(self) -> list[Job]:
        """Every submitted job that the cluster remembers, oldest first."""
        with _asked(self.address):
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda one: one.started or 0)

    def job(self, name: str) -> Job:
        """One job; raises ConfigError when there is none of this name."""
        with _asked(self.address, name):
            return _job(self._client.get_job_info(name))

    def log(self, name: str) -> str:
        """All that the job has printed so far."""
        with _asked(self.address, name):
            return self._client.get_job_logs(name)

    def stop(self, name: str) -> bool:
        """Ask a job to stop; False if it was over already. Returns at once."""
        with _asked(self.address, name):
            return self._client.stop_job(name)

    def wait(self, name: str) -> Job:
        """Wait until a job is over."""
        while not (found := self.job(name)).is_over:
            time.sleep(0.5)
        return found

    def follow(self, name: str, write: Callable[[str], Any], notice: Callable[[str], Any]) -> Job:
        """Pass on what a job prints until it is over. A lost connection is taken up again where it broke."""
        written, answered, lost = 0, time.monotonic(), False
        while True:
            passed = 0
            for chunk in self._tail(name):
                # A new connection tells the log from its beginning.
                write(chunk[max(0, written - passed) :])
                passed += len(chunk)
                written, answered, lost = max(written, passed), time.monotonic(), False
            try:
                found = self.job(name)
                if found.is_over:
                    return found
                answered, lost = time.monotonic(), False
            except Lost:
                if time.monotonic() - answered > PATIENCE_SECONDS:
                    raise
                if not lost:
                    notice(f"no answer from {self.address}; trying again for {PATIENCE_SECONDS:.0f} s")
                    lost = True
            time.sleep(1)

    def _tail(self, name: str) -> Iterator[str]:
        """What a job has printed and prints, until it is over or the connection is lost.

        The connection has a thread of its own: a signal then meets the main thread where it waits, and nowhere else.
        """
        chunks: queue.Queue[str | None] = queue.Queue()

        async def read() -> None:
            async for chunk in self._client.tail_job_logs(name):
                chunks.put(chunk)

        def run() -> None:
            try:
                asyncio.run(read())
            except Exception:  # noqa: BLE001 - whatever ended it, the job's state decides what follows
                pass
            finally:
                chunks.put(None)

        threading.Thread(target=run, name="log", daemon=True).start()
        over = False
        while True:
            try:
                chunk = chunks.get(timeout=BEAT_SECONDS)
            except queue.Empty:
                if over:
                    return
                # Nothing printed, or a connection that died without a word.
                try:
                    over = self.job(name).is_over
                except Lost:
                    return
                continue
            if chunk is None:
                return
            yield chunk


def _job(details: Any) -> Job:
    code = details.driver_exit_code
    return Job(
        id=details.submission_id, state=details.status.value.lower(),
        # A negative one is the signal that killed the driver, which a shell tells so.
        exit_code=128 - code if code is not None and code < 0 else code,
        message=details.message or "", command=details.entrypoint,
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None, metadata=details.metadata or {},
    )  # fmt: skip


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Without some environment variables, which Ray prefers to what it is given."""
    taken = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)


def exit_code(found: Job, status: Status | None) -> int:
    """The exit code of a job that is over: the driver's own, as far as anybody knows it."""
    if found.exit_code is not None:
        return found.exit_code
    if status is not None and status.exit_code is not None:
        return status.exit_code
    return 143 if found.state == "stopped" else 1


@contextmanager
def _asked(address: str, name: str | None = None) -> Iterator[None]:
    """Turn what Ray's client raises into Lost, Refused or ConfigError."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ConfigError(f"{address} refuses the token that is here: {authentication.HOW}") from error
    except (requests.exceptions.RequestException, ConnectionError) as error:
        raise Lost(f"{address} does not answer") from error
    except RuntimeError as error:
        text = str(error)
        if name and ("status code 404" in text or "does not exist" in text):
            raise ConfigError(
                f"{name}: {address} knows no such job; `harness status` lists those that it knows"
            ) from error
        raise Refused(f"{address}: {_answer(text)}") from error


def _answer(text: str) -> str:
    """The last line of what may be a traceback of the cluster's."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
