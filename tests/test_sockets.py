"""What a sweep on this machine opens to others, seen on its sockets."""

import json
import subprocess
import sys

import pytest

from tests.ray_head import ROOT, clean

SCRIPT = """
import json, urllib.request, urllib.error
import grpc, psutil
from harness import cluster
from harness.config import Scale

CALLS = {  # a method of each kind of process that would tell or do something
    "gcs_server": "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "raylet": "/ray.rpc.NodeManagerService/GetNodeStats",
    "worker": "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
}

def called(port, method):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(method, bytes, bytes)(b"", timeout=5)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"

with cluster.connected(Scale(workers=2)):
    import ray
    ray.get(ray.remote(lambda: None).remote())
    found = []
    for process in psutil.Process().children(recursive=True) + [psutil.Process()]:
        for each in process.net_connections("tcp"):
            if each.status == "LISTEN":
                found.append((process.name(), each.laddr.ip, each.laddr.port))
    answers = {f"{name}:{port}": [called(port, method) for method in CALLS.values()] for name, _, port in found}
    dashboard = ray._private.worker.global_worker.node.webui_url
print(json.dumps({"listening": found, "answers": answers, "dashboard": dashboard}))
"""
EVERYWHERE = {"0.0.0.0", "::"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a token that anybody may read, as Ray writes it."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("0" * 64)
    (home / ".ray" / "auth_token").chmod(0o644)
    return home


@pytest.fixture(scope="module")
def seen(home):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=clean(HOME=str(home)), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_dashboard_stays_on_loopback_and_there_is_no_client_port(seen):
    host, port = seen["dashboard"].rsplit(":", 1)
    assert host == "127.0.0.1"
    (dashboard,) = [ip for _, ip, number in seen["listening"] if number == int(port)]
    assert dashboard.removeprefix("::ffff:") == "127.0.0.1"
    assert 10001 not in {number for _, _, number in seen["listening"]}


@pytest.mark.slow
def test_what_listens_on_every_interface_is_rays_own_and_does_nothing_without_the_token(seen, home):
    """Ray itself opens these; there is no switch to keep them on loopback."""
    open_ = [(name, port) for name, ip, port in seen["listening"] if ip in EVERYWHERE]
    assert {name for name, _ in open_} >= {"gcs_server", "raylet"}
    assert all(name in {"gcs_server", "raylet", "python"} or name.startswith(("ray::", "python")) for name, _ in open_)
    answers = [answer for name, port in open_ for answer in seen["answers"][f"{name}:{port}"]]
    assert "OK" not in answers
    for kind in ("gcs_server", "raylet"):
        given = [answer for each, all_ in seen["answers"].items() if each.startswith(kind) for answer in all_]
        assert "UNAUTHENTICATED" in given
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
