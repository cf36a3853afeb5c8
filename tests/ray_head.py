"""A real Ray head on ports of its own, with a token, that knows nothing of this checkout; and a checkout to ship."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.faults import free_ports, wait_for

ROOT = Path(__file__).parent.parent
MARKER = "0.1.0+marker"


@dataclass
class Head:
    """A head: where it is, and how to talk to it."""

    folder: Path
    port: int
    dashboard: int
    client: int
    token: str
    process: subprocess.Popen
    environment: dict[str, str] = field(default_factory=dict)
    """For commands that know the token."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def harness(self, *arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run one command line of the harness as another process, from the code in `cwd`."""
        return subprocess.run(
            command(*arguments), cwd=cwd, env={**self.environment, **environment}, capture_output=True, text=True,
            timeout=240,
        )  # fmt: skip


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "harness", *map(str, arguments)]


def clean(**more: str) -> dict[str, str]:
    """This process's environment without what tells Ray or Python where things are."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHONPATH", "MLFLOW_", "HARNESS_"))}
    kept |= {key: os.environ[key] for key in ("HARNESS_DATA", "HARNESS_CACHE") if key in os.environ}
    binaries = Path(sys.executable).parent
    return kept | {"PATH": f"{binaries}:{kept['PATH']}", "OMP_NUM_THREADS": "1"} | more


@contextlib.contextmanager
def started(folder: Path, **environment: str) -> Iterator[Head]:
    """A head for the length of the block, in a home of its own."""
    port, dashboard, client, *others = free_ports(7)
    token = secrets.token_hex(32)
    # Its sockets' paths must be short.
    short = Path(f"/tmp/r{os.getpid()}_{port}")
    names = (
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "metrics-export-port",
        "runtime-env-agent-port",
    )
    options = [f"--{name}={number}" for name, number in zip(names, others, strict=True)]
    here = folder / "head"
    here.mkdir()
    node = clean(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token, HOME=str(here), **environment)
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
         f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
         f"--ray-client-server-port={client}", f"--temp-dir={short}", "--num-cpus=2",
         "--object-store-memory=100000000", "--disable-usage-stats", *options],
        cwd=here, env=node, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    head = Head(short, port, dashboard, client, token, process, clean(RAY_AUTH_TOKEN=token, HOME=str(here)))
    try:
        wait_for(lambda: _is_up(process.pid, dashboard) or process.poll() is not None, 60)
        assert process.poll() is None, process.communicate()[0]
        yield head
    finally:
        end(process)
        shutil.rmtree(short, ignore_errors=True)


def _is_up(pid: int, dashboard: int) -> bool:
    """Whether the dashboard answers, and the raylet, which comes last, listens to other machines."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", dashboard)) != 0:
            return False
    with contextlib.suppress(psutil.Error):  # processes come and go meanwhile
        return any(name == "raylet" and ip in {"0.0.0.0", "::"} for name, ip, _ in listening(pid))
    return False


def listening(pid: int) -> list[tuple[str, str, int]]:
    """Where a process and all that it started listen: name, address, port."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return [
        (process.name(), each.laddr.ip, each.laddr.port)
        for process in family
        for each in process.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    ]


def end(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(family, timeout=30)
    process.communicate()


def checkout(folder: Path) -> Path:
    """A checkout that can be told from every other installation, with things in it that must not travel."""
    for name in ("harness", "methods", "datasets", "results/published"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    version = folder / "harness" / "__init__.py"
    version.write_text(version.read_text().replace('__version__ = "0.1.0"', f'__version__ = "{MARKER}"'))
    assert MARKER in version.read_text()
    for name in ("data/images.bin", "results/old/0123456789ab.json", "my-venv/pyvenv.cfg", "my-venv/lib/x.py", ".env",
                 "weights.pt", "mlflow.db", "key.pem", "harness/__pycache__/x.pyc", "d.beton"):  # fmt: skip
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("must not travel")
    return folder


def commit(folder: Path) -> str:
    """Make a folder a git checkout and return its commit."""
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for arguments in (["init", "-q"], ["add", "harness", "methods", "datasets"], ["commit", "-q", "-m", "t"]):
        subprocess.run([*git, *arguments], check=True, capture_output=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
