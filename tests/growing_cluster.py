"""A Ray cluster on this machine whose autoscaler starts nodes by itself: Ray's own fake provider."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

EMPTY: dict[str, Any] = {
    **{key: {} for key in ("auth", "docker", "file_mounts")},
    **{key: [] for key in (
        "cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands",
        "head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
    )},
    "file_mounts_sync_continuously": False,
}  # fmt: skip
"""What the launcher would fill in before the autoscaler reads the file."""


HEAD = "ray.head.default"
"""The one name that the fake provider takes for the type of the head."""


@contextmanager
def started(types: dict[str, Any], *, max_workers: int = 4) -> Iterator[dict[str, str]]:
    """Environment variables for a driver on a cluster whose head has no CPUs, and no node yet."""
    port, folder = _free_port(), Path(tempfile.mkdtemp(prefix="r_", dir="/tmp"))
    file = folder / "cluster.yaml"
    head = {HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}}
    provider = {
        "type": "fake_multinode", "gcs_address": f"127.0.0.1:{port}", "launch_multiple": True,
        "disable_node_updaters": True,
    }  # fmt: skip
    content = EMPTY | {
        "cluster_name": "growing", "max_workers": max_workers, "idle_timeout_minutes": 5, "upscaling_speed": 1.0,
        "provider": provider, "head_node_type": HEAD, "available_node_types": head | types,
    }  # fmt: skip
    file.write_text(json.dumps(content))
    environment = os.environ | {
        "RAY_AUTH_MODE": "disabled", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1",
        "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(Path(__file__).parent.parent),
    }  # fmt: skip
    environment.pop("RAY_ADDRESS", None)
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}",
        f"--autoscaling-config={file}", f"--temp-dir={folder}", "--num-cpus=0", "--object-store-memory=80000000",
        "--include-dashboard=false", "--disable-usage-stats",
    ]  # fmt: skip
    try:
        subprocess.run(command, check=True, capture_output=True, env=environment)
        yield environment | {"RAY_ADDRESS": f"127.0.0.1:{port}", "HARNESS_CLUSTER": str(file)}
    finally:
        _stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _stop(folder: Path) -> None:
    """End what belongs to this cluster, which is what names its folder, and nothing else."""
    ours = [each for each in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(each.info["cmdline"] or [])]
    for each in ours:
        for process in [each, *each.children(recursive=True)]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
    psutil.wait_procs(ours, timeout=30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
