"""Jobs on a real Ray cluster whose nodes have only the dependencies. All share one head, which takes seconds."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from harness import job, record
from harness.data import prepare
from tests import ray_head
from tests.experiments import EXPERIMENT
from tests.ray_head import Head, command, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SECRET = "s3cr3t-of-the-user"
ONE = {"methods": ["ann"], "seeds": 0, "train": {"epochs": 1}}
FAILING = ["ann", {"name": "ann", "label": "too large", "train": {"batch_size": 100_000}}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def head(folder) -> Iterator[Head]:
    prepare.prepare("digits")
    (folder / "shared").mkdir()
    with ray_head.started(folder, HARNESS_RESULTS=str(folder / "shared")) as head:
        yield head


@pytest.fixture(scope="module")
def checkout(folder) -> Path:
    """Its method needs a variable, wherever it is imported."""
    made = ray_head.checkout(folder / "checkout")
    method = made / "methods" / "ann.py"
    method.write_text(method.read_text() + '\nimport os\nassert os.environ["FORWARDED"]\n')
    return made


def written(file: Path, **changes: object) -> Path:
    file.write_text(yaml.safe_dump(EXPERIMENT | changes))
    return file


def texts(*folders: Path) -> str:
    """All that stands in the files below some folders."""
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return "\n".join(file.read_text(errors="replace") for file in files)


@pytest.fixture
def ours(head, harness, monkeypatch):
    """A command line in this process, which knows the head and its token."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    return lambda *arguments: harness(*arguments, "--address", head.url)


def test_the_checkout_and_the_file_travel_and_the_exit_code_comes_back(head, ours, checkout, folder):
    commit = ray_head.commit(checkout)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    file = written(elsewhere / "mine.yaml", **{**ONE, "methods": FAILING})
    done = head.harness(
        "submit", file, "--address", head.url, "--env", "FORWARDED", "--set", "name=mine", cwd=checkout,
        FORWARDED=SECRET,
    )  # fmt: skip
    assert done.returncode == 3, done.stdout + done.stderr
    assert "too large" in done.stdout
    assert "files, " in done.stderr
    assert f"commit {commit[:12]}" in done.stderr

    results = folder / "shared" / "results" / "mine"
    found = list(record.read_all([results]))
    assert sorted(result.outcome for result in found) == ["done", "failed"]
    for result in found:
        assert result.versions["harness"] == ray_head.MARKER
        assert (result.commit, result.dirty) == (commit, False)
        assert result.command == "harness sweep .submitted/mine.yaml --set name=mine"
    (status,) = job.find(str(folder / "shared" / "results"))
    assert (status.state, status.exit_code, status.trials) == ("ended", 3, 2)
    assert status.outcomes == {"done": 1, "failed": 1}
    assert (status.commit, status.dirty) == (commit, False)

    row = json.loads(ours("status", status.job, "--json")[1])
    assert (row["state"], row["exit_code"]) == ("failed", 3)
    assert any("failed: " in line for line in row["log"])
    assert SECRET not in done.stdout + done.stderr + texts(head.folder, folder / "shared")


def test_plain_ray_job_submit_works_too_and_measures_nothing_twice(head, checkout, folder):
    """Its default of a relative `results` stands below HARNESS_RESULTS of the nodes."""
    written(checkout / "again.yaml", **ONE, name="mine")
    environment = json.dumps({"env_vars": {"FORWARDED": "1"}})
    ray = [Path(sys.executable).parent / "ray", "job", "submit", "--address", head.url, "--runtime-env-json"]
    done = subprocess.run(
        [*ray, environment, "--working-dir", ".", "--", "python", "-m", "harness", "sweep", "again.yaml"],
        cwd=checkout, env={**head.environment, "RAY_AUTH_MODE": "token"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 trials were measured before" in done.stdout
    last = job.find(str(folder / "shared" / "results"))[-1]
    assert (last.exit_code, last.outcomes) == (0, {"before": 1})


CALLS = {  # a method of each kind of process that would tell or do something
    "gcs_server": "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "raylet": "/ray.rpc.NodeManagerService/GetNodeStats",
    "ray::": "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "python": "/ray.rpc.RayletDriver/ClusterInfo",
}


def called(port: int, method: str, token: str | None = None) -> str:
    """How a port answers a call."""
    import grpc

    metadata = [("authorization", f"Bearer {token}")] if token else None
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(method, bytes, bytes)(b"", timeout=5, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def test_a_head_keeps_its_dashboard_on_loopback_and_what_is_open_does_nothing_without_the_token(head):
    found = ray_head.listening(head.process.pid)
    assert {ip.removeprefix("::ffff:") for _, ip, port in found if port == head.dashboard} == {"127.0.0.1"}
    open_ = {port for _, ip, port in found if ip in {"0.0.0.0", "::"}}
    assert head.port in open_  # Ray's own, between machines
    answers = {(port, kind): called(port, method) for port in open_ | {head.client} for kind, method in CALLS.items()}
    assert "OK" not in answers.values()
    refused = {kind for (_, kind), answer in answers.items() if answer == "UNAUTHENTICATED"}
    assert refused >= {"gcs_server", "raylet", "python"}
    assert called(head.port, CALLS["gcs_server"], head.token) == "OK"


class Tunnel:
    """Passes connections on to a port until it is cut."""

    def __init__(self, port: int) -> None:
        self._to, self._open = port, True
        self._pairs: list[socket.socket] = []
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            near, _ = self._door.accept()
            if not self._open:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                near.close()
                continue
            self._pairs += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()

    def cut(self) -> None:
        """End every connection and take no new one."""
        self._open = False
        for each in self._pairs:
            with contextlib.suppress(OSError):  # ended by itself
                each.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def mend(self) -> None:
        self._open = True


def _pump(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Lines:
    """What a process says, line by line, as it says it."""

    def __init__(self, stream) -> None:
        self.seen: list[str] = []
        self._thread = threading.Thread(target=lambda: self.seen.extend(stream), daemon=True)
        self._thread.start()

    def has(self, text: str) -> bool:
        return any(text in line for line in list(self.seen))

    def rest(self) -> str:
        self._thread.join(30)
        return "".join(self.seen)


def test_a_cut_connection_is_taken_up_again_ctrl_c_detaches_and_stop_lets_trials_save(head, ours, folder):
    results = folder / "long"
    changes = {"methods": ["bptt"], "seeds": 0, "train": {"epochs": 3000}, "tracking": {"mlflow": True}}
    file = written(folder / "long.yaml", results=str(results), **changes)
    tunnel = Tunnel(head.dashboard)
    client = subprocess.Popen(
        command("submit", file, "--address", tunnel.url), cwd=ray_head.ROOT, env=head.environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    out, err = Lines(client.stdout), Lines(client.stderr)
    wait_for(lambda: out.has("Running entrypoint") or client.poll() is not None)
    tunnel.cut()
    wait_for(lambda: err.has("trying again") or client.poll() is not None)
    tunnel.mend()
    wait_for(lambda: out.has("nothing is sent from this job") or client.poll() is not None)
    wait_for(lambda: list(results.rglob("last.pt")) or client.poll() is not None)
    client.send_signal(signal.SIGINT)
    assert client.wait(30) == 130
    assert out.rest().count("Running entrypoint") == 1
    (running,) = job.find(str(results))
    assert f"{running.job} is left running" in err.rest()
    assert f"harness status {running.job} --address {tunnel.url} --follow" in err.rest()
    assert f"harness stop {running.job} --address {tunnel.url}" in err.rest()
    assert (running.state, running.done, running.trials) == ("running", 0, 1)

    code, _, said = ours("stop", running.job)
    assert code == 0, said
    assert "what was done is saved" in said
    (after,) = job.find(str(results))
    assert (after.state, after.exit_code, after.reason) == ("ended", 143, "stopped by SIGTERM")
    assert list(results.rglob("last.pt"))
    assert ours("stop", running.job)[0] == 1
    code, log, _ = ours("status", running.job, "--follow")
    assert code == 143
    assert "Resume with: harness sweep" in log
    assert [row["state"] for row in json.loads(ours("status", "--json")[1]) if row["job"] == running.job] == ["stopped"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"RAY_AUTH_TOKEN": "wrong"}, "refuses the token that is here: put the cluster's token into"),
        ({"RAY_AUTH_TOKEN": ""}, "wants a token, and there is none here"),
        ({"RAY_AUTH_MODE": "disabled"}, "wants a token, but RAY_AUTH_MODE is 'disabled' here"),
        ({"RAY_AUTH_MODE": "tokens"}, "RAY_AUTH_MODE=tokens: Ray knows 'token', the default here, and 'disabled'"),
    ],
)
def test_tokens_that_do_not_fit_are_one_line_for_jobs_and_for_sweeps(
    head, harness, tmp_path, monkeypatch, change, complaint
):
    file = written(tmp_path / "a.yaml", **ONE, results=str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    for key, value in {"RAY_AUTH_TOKEN": head.token, "RAY_AUTH_MODE": "token", **change}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{head.port}")
    for line in (["submit", file, "--address", head.url], ["status", "--address", head.url], ["sweep", file]):
        code, out, err = harness(*line)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert complaint in err
        assert head.token not in err


def test_a_job_that_nobody_knows_is_one_line(ours):
    for line in (["status", "nobody"], ["status", "nobody", "--follow"], ["stop", "nobody"]):
        code, _, err = ours(*line)
        assert (code, err.count("\n")) == (2, 1)
        assert "knows no such job" in err
