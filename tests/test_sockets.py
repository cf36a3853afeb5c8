"""What a sweep on this machine opens to others, seen on its sockets."""

import ipaddress
import json
import subprocess
import sys

import pytest

from tests.ray_head import ROOT, clean

SCRIPT = """
import json, os
from harness import cluster
from harness.config import Scale
from tests.ray_head import listening
with cluster.connected(Scale(workers=2)):
    import ray
    ray.get(ray.remote(lambda: None).remote())
    dashboard = ray._private.worker.global_worker.node.webui_url
    print(json.dumps({"listening": listening(os.getpid()), "dashboard": dashboard}))
"""


@pytest.mark.slow
def test_a_sweep_here_listens_on_loopback_alone_and_its_token_is_for_its_owner(tmp_path):
    (tmp_path / ".ray").mkdir()
    token = tmp_path / ".ray" / "auth_token"
    token.write_text("0" * 64)
    token.chmod(0o644)  # as Ray writes it
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=clean(HOME=str(tmp_path)), capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    names = {name for name, _, _ in seen["listening"]}
    assert {"gcs_server", "raylet"} <= names
    assert not [
        each for each in seen["listening"] if not ipaddress.ip_address(each[1].removeprefix("::ffff:")).is_loopback
    ]
    assert int(seen["dashboard"].rsplit(":", 1)[1]) in {port for _, _, port in seen["listening"]}
    assert 10001 not in {port for _, _, port in seen["listening"]}
    assert token.stat().st_mode & 0o777 == 0o600
