"""Nodes with network addresses of their own on one machine: network namespaces on one bridge, a Ray node in each."""

import contextlib
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.faults import Driver, Sweep, wait_for

RAY = str(Path(sys.executable).with_name("ray"))


class NoRights(Exception):
    """This process may not make network namespaces; the message says what was refused."""


def _ip(arguments: str) -> None:
    result = subprocess.run(["ip", *arguments.split()], capture_output=True, text=True)
    if result.returncode:
        raise NoRights(f"ip {arguments}: {result.stderr.strip()}")


class Network:
    """A bridge and hosts on it, each a network namespace with the address 10.77.<net>.<host>."""

    def __init__(self) -> None:
        self._number = os.getpid() % 250
        self.hosts: list[str] = []
        self._bridge = f"hb{self._number}"
        _ip(f"link add {self._bridge} type bridge")
        _ip(f"link set {self._bridge} up")

    def add(self) -> tuple[str, str]:
        """Another host: the name of its namespace, and its address."""
        index = len(self.hosts) + 1
        name, outside, address = f"hn{self._number}_{index}", f"hv{self._number}_{index}", self.address(index)
        _ip(f"netns add {name}")
        self.hosts.append(name)
        _ip(f"link add {outside} type veth peer name eth0 netns {name}")
        _ip(f"link set {outside} master {self._bridge} up")
        _ip(f"-n {name} addr add {address}/24 dev eth0")
        _ip(f"-n {name} link set eth0 up")
        _ip(f"-n {name} link set lo up")
        return name, address

    def address(self, index: int) -> str:
        return f"10.77.{self._number}.{index}"

    def pids(self, host: str) -> list[int]:
        """Every process on a host."""
        found = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def kill(self, host: str) -> None:
        """Kill everything on a host."""
        for _ in range(5):
            alive = []
            for pid in self.pids(host):
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    alive.append(psutil.Process(pid))
                    os.kill(pid, signal.SIGKILL)
            if not alive:
                return
            psutil.wait_procs(alive, timeout=10)

    def close(self) -> None:
        for host in self.hosts:
            self.kill(host)
            subprocess.run(["ip", "netns", "del", host], capture_output=True)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True)


class Nodes:
    """Ray nodes on hosts of their own, with token authentication; the first is the head."""

    def __init__(self, network: Network) -> None:
        self.network, self.folder = network, Path(tempfile.mkdtemp(prefix="rn_", dir="/tmp"))
        self.token = self.folder / "token"
        self.token.write_text(secrets.token_hex(32))
        self.token.chmod(0o600)
        self.head = network.address(1)
        self.environment = {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_API_SERVER_ADDRESS": f"http://{self.head}:8265", "PYTHONPATH": str(Path(__file__).parent.parent),
        }  # fmt: skip
        self._ports = itertools.count(1)

    def start(self, cpus: int) -> str:
        """Another node: the name of its host."""
        host, address = self.network.add()
        folder = self.folder / host
        if address == self.head:
            where = [
                "--head", f"--node-ip-address={address}", "--port=6379", f"--dashboard-host={address}",
                "--dashboard-port=8265", f"--temp-dir={folder}",
            ]  # fmt: skip
        else:
            where = [f"--address={self.head}:6379", f"--node-ip-address={address}"]
        options = [f"--num-cpus={cpus}", "--object-store-memory=80000000", "--disable-usage-stats"]
        command = ["ip", "netns", "exec", host, RAY, "start", *where, *options]
        made = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **self.environment})
        assert made.returncode == 0, made.stdout + made.stderr
        return host

    def kill_raylet(self, host: str) -> None:
        """Kill a node's raylet; its workers end with it."""
        for pid in self.network.pids(host):
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(pid).name() == "raylet":
                    os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not [pid for pid in self.network.pids(host) if _is_worker(pid)], 60)

    def sweep(self, sweep: Sweep) -> Driver:
        """`harness sweep` on the head's host."""
        command = ["ip", "netns", "exec", self.network.hosts[0], sys.executable, "-m", "harness", "sweep"]
        return Driver([*command, str(sweep.file)], {**self.environment, "RAY_ADDRESS": f"{self.head}:6379"})

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_worker(pid: int) -> bool:
    try:
        return psutil.Process(pid).cmdline()[0].startswith("ray::RayTrainWorker")
    except (psutil.Error, IndexError):
        return False


@contextlib.contextmanager
def nodes() -> Iterator[Nodes]:
    """Hosts for Ray nodes, for the length of the block; whatever runs on them is killed at its end.

    Raises NoRights.
    """
    try:
        network = Network()
    except FileNotFoundError as error:
        raise NoRights(f"no command '{error.filename}'") from error
    made = Nodes(network)
    try:
        yield made
    finally:
        network.close()
        made.close()
