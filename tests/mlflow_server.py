"""Real MLflow servers on loopback, with a database in a file or in a PostgreSQL of their own."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.tracking import server
from tests import faults

POSTGRES = Path("/usr/lib/postgresql/15/bin")


class Server:
    """An MLflow server on a port and a database that outlive it."""

    def __init__(self, folder: Path, store: str | None = None) -> None:
        (self.port,) = faults.free_ports(1)
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self._store = store or f"sqlite:///{folder}/m.db"

    def start(self) -> None:
        self.begin()
        faults.wait_for(self.answers)

    def begin(self) -> None:
        """Start it, and do not wait for it."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        store = ["--workers", "1", "--backend-store-uri", self._store]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [*command, *store, "--artifacts-destination", str(self.folder / "artifacts")], cwd=self.folder,
                stdout=log, stderr=log, env={**environment, **quiet},
            )  # fmt: skip

    def answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended: {(self.folder / 'log').read_text()[-2000:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        faults.kill_tree(self.process)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """URI of a PostgreSQL database that lives as long as the block; skips where none can be.

    It names its driver, for which SQLAlchemy 2.1 takes another one by default than 2.0.
    """
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    if not (POSTGRES / "initdb").exists():
        pytest.skip(f"no PostgreSQL in {POSTGRES}")
    # It refuses to run as root, and then looks into no folder of root's.
    user = None
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    folder = Path(tempfile.mkdtemp(prefix="harness-pg-", dir="/tmp"))
    as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)
    (port,) = faults.free_ports(1)
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **as_user}
    make = [POSTGRES / "initdb", "-D", folder / "data", "-U", "mlflow", "-A", "trust", "--no-sync", "-E", "UTF8"]
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    process = None
    try:
        subprocess.run(make, check=True, **quiet)
        process = subprocess.Popen([POSTGRES / "postgres", "-D", folder / "data", "-p", str(port), *options], **quiet)
        ready = [POSTGRES / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow"]
        faults.wait_for(lambda: subprocess.run(ready, **quiet).returncode == 0, 60)
        yield f"postgresql+psycopg2://mlflow:secret@127.0.0.1:{port}/postgres"
    finally:
        if process:
            faults.kill_tree(process)
        shutil.rmtree(folder, ignore_errors=True)


def runs(uri: str, experiment: str = "digits"):
    """The sweeps' runs and the trials' runs."""
    client = server.client(uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    is_child = "mlflow.parentRunId"
    return [r for r in found if is_child not in r.data.tags], [r for r in found if is_child in r.data.tags]


def points(uri: str, run: str, metric: str) -> list[tuple[int, float]]:
    """Step and value of a metric, in order."""
    return [(each.step, each.value) for each in server.client(uri).get_metric_history(run, metric)]
