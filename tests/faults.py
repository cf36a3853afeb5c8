"""Sweeps in real processes that are disturbed, and what must not depend on that."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
import yaml

from harness import checkpoint, experiment_file, plan, record, sweep
from harness.data import prepare
from harness.record import Record
from tests.experiments import EXPERIMENT

Found = TypeVar("Found")

TIMES = {"started", "wall_seconds", "restarts", "machine", "command", "commit", "dirty"}
COSTS = {"latency", "throughput", "peak_memory_bytes", "worker_hours"}
EPOCH = {"seconds", "evaluation_seconds"}


def comparable(result: Record) -> dict[str, Any]:
    """A record without what may differ between two runs of the same trial: times, restarts, the machine's figures."""
    content = result.model_dump(mode="json", exclude=TIMES)
    content["cost"] = {key: value for key, value in content["cost"].items() if key not in COSTS}
    content["history"] = [{k: v for k, v in epoch.items() if k not in EPOCH} for epoch in content["history"]]
    return content


def same(ours: Record, theirs: Record) -> bool:
    """Whether two records of a trial say the same, to the bit."""
    return comparable(ours) == comparable(theirs)


def same_weights(ours: Path, theirs: Path) -> bool:
    """Whether two files hold the same weights, to the bit."""
    first, second = (checkpoint.load_weights(file) for file in (ours, theirs))
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def wait_for(what: Callable[[], Found], seconds: float = 240) -> Found:
    """The first true answer of `what`; fails after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s in vain")


class Sweep:
    """One experiment in a folder of its own: its command, its files, and what an undisturbed run of it gives."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.results = folder, folder / "results"
        self.file = folder / "small.yaml"
        self.content = EXPERIMENT | {"results": str(self.results)} | changes
        self.file.write_text(yaml.safe_dump(self.content))

    @property
    def place(self) -> Path:
        return self.results / self.content["name"]

    def started(self, verb: str = "sweep", **environment: str) -> "Driver":
        return Driver([sys.executable, "-m", "harness", verb, str(self.file)], environment)

    def records(self) -> dict[str, Record]:
        return {result.id: result for result in record.read_all([self.results])} if self.results.exists() else {}

    def checkpoints(self) -> dict[Path, int]:
        """The states to go on from, with when they were written."""
        found = {}
        for file in self.results.rglob("last.pt"):
            with contextlib.suppress(FileNotFoundError):
                found[file] = file.stat().st_mtime_ns
        return found

    def progressed(self, number: int = 1, beyond: dict[Path, int] | None = None) -> dict[Path, int]:
        """Wait until so many trials have saved a state that is newer than `beyond`."""
        before = self.checkpoints() if beyond is None else beyond
        wait_for(lambda: sum(before.get(file) != when for file, when in self.checkpoints().items()) >= number)
        return self.checkpoints()

    def undisturbed(self) -> "Sweep":
        """The same experiment, run in this process without Ray and without anything that goes wrong."""
        other = Sweep(self.folder / "undisturbed", **{k: v for k, v in self.content.items() if k != "results"})
        experiment = experiment_file.load(other.file)
        for trial in other.trials():
            sweep.run_one(experiment, trial, lambda metrics: None)
        return other

    def trials(self) -> list[plan.Trial]:
        return plan.expand(experiment_file.load(self.file), prepare.info("digits"), file=str(self.file))

    def differences(self, other: "Sweep") -> list[str]:
        """What is not as in the other: missing, additional or different records and weights; what was left behind."""
        ours, theirs = self.records(), other.records()
        found = [f"{name}: only one of the two has it" for name in ours.keys() ^ theirs.keys()]
        for name in sorted(ours.keys() & theirs.keys()):
            if not same(ours[name], theirs[name]):
                found.append(f"{name}: records differ")
            files = [each.place / "checkpoints" / name / checkpoint.WEIGHTS for each in (self, other)]
            if not same_weights(*files):
                found.append(f"{name}: weights differ")
        left = [file for pattern in ("last.pt", "claim", ".*.json.*") for file in self.results.rglob(pattern)]
        return found + [f"{file}: left behind" for file in left]


class Driver:
    """A command in a process of its own, its output in files."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._out, self._err = _output(), _output()
        self.process = subprocess.Popen(
            command, stdout=self._out, stderr=self._err, text=True, env={**os.environ, **environment}
        )

    @property
    def out(self) -> str:
        return _text(self._out)

    @property
    def err(self) -> str:
        return _text(self._err)

    def says(self, text: str, seconds: float = 120) -> str:
        """Wait until it has said so on stderr."""
        wait_for(lambda: text in self.err or self.process.poll() is not None, seconds)
        assert text in self.err, self.err
        return self.err

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, seconds: float = 300) -> int:
        return self.process.wait(seconds)

    def descendants(self, name: str = "") -> list[psutil.Process]:
        return named(psutil.Process(self.process.pid), name)

    def destroy(self) -> None:
        """Kill it and all that it started."""
        kill_tree(self.process)


def _output() -> Any:
    """A file for what a process says, which goes when this process does."""
    return tempfile.TemporaryFile("w+")


def _text(file: Any) -> str:
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")


def named(process: psutil.Process, name: str) -> list[psutil.Process]:
    """Processes below one whose names begin so."""
    found = []
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            title = " ".join(child.cmdline()[:1])
            if name in title:
                found.append(child)
    return found


def kill(processes: list[psutil.Process]) -> None:
    """Kill them and wait until they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_for(lambda: not any(_runs(process) for process in processes), 60)


def _runs(process: psutil.Process) -> bool:
    """Whether a process is neither gone nor only waiting for its parent to notice."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_tree(process: subprocess.Popen) -> None:
    if process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait(60)
        kill(children)


def free_ports(number: int) -> list[int]:
    """Free ports below those that the system hands out by itself, and outside of Ray's own range for workers."""
    found: list[int] = []
    while len(found) < number:
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found.append(port)
    return found


class Node:
    """A Ray node in a process tree of its own, which `kill` ends, raylet and all."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats", *arguments]
        self.log = _output()
        # In a session of its own, as everything of one node ends together.
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=self.log, env={**os.environ, **environment}, start_new_session=True
        )

    def wait(self) -> "Node":
        wait_for(lambda: "Ray runtime started" in _text(self.log) or self.process.poll() is not None, 120)
        assert self.process.poll() is None, _text(self.log)
        return self

    def kill(self) -> None:
        kill_tree(self.process)


class Cluster:
    """A Ray cluster on this machine that any number of drivers connect to. Ended by killing it, node by node."""

    def __init__(self, cpus: int, *, dashboard: bool = False, **environment: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rf_", dir="/tmp"))
        self.port, dashboard_port, client, agent = free_ports(4)
        self.address = f"127.0.0.1:{self.port}"
        self.environment = {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "PYTHONPATH": str(Path(__file__).parent.parent), **environment,
        }  # fmt: skip
        if dashboard:
            self.environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard_port}"
        self._head = [
            "--head", "--node-ip-address=127.0.0.1", f"--port={self.port}", f"--include-dashboard={dashboard}",
            f"--dashboard-port={dashboard_port}", f"--ray-client-server-port={client}",
            f"--dashboard-agent-listen-port={agent}", f"--num-cpus={cpus}", "--object-store-memory=80000000",
        ]  # fmt: skip
        self.nodes: list[Node] = []
        self.start_head()

    def start_head(self) -> Node:
        """A head in a folder of its own: of one that was killed there remains nothing."""
        folder = tempfile.mkdtemp(prefix="h", dir=self.folder)
        head = Node([*self._head, f"--temp-dir={folder}"], self.environment).wait()
        self.nodes = [head, *self.nodes[1:]]
        return head

    def add(self, cpus: int) -> Node:
        (agent,) = free_ports(1)
        arguments = [
            f"--address={self.address}", "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}",
            f"--dashboard-agent-listen-port={agent}", "--object-store-memory=80000000",
        ]  # fmt: skip
        self.nodes.append(Node(arguments, self.environment).wait())
        return self.nodes[-1]

    @property
    def client(self) -> dict[str, str]:
        """What a driver needs in its environment to use this cluster."""
        return {**self.environment, "RAY_ADDRESS": self.address}

    def workers(self, name: str) -> list[psutil.Process]:
        """Ray's processes of that name on all nodes."""
        alive = [node.process for node in self.nodes if node.process.poll() is None]
        return [found for process in alive for found in named(psutil.Process(process.pid), name)]

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def cluster(cpus: int, **options: Any) -> Iterator[Cluster]:
    """A cluster for the length of the block."""
    made = Cluster(cpus, **options)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def ended(*drivers: Driver) -> Iterator[None]:
    """Leave no process of these behind, whatever happens in the block."""
    try:
        yield
    finally:
        for driver in drivers:
            driver.destroy()


SIGNALS = (signal.SIGTERM, signal.SIGINT)
