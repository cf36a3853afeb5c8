"""The Ray cluster that a sweep runs on: an existing one if the environment names it, else one on this machine."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from harness import authentication, job
from harness.config import Scale

ENVIRONMENT = {
    # Also on one machine: a token keeps its other users out.
    authentication.MODE: "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # The default of 2 s is what every report of a Train worker then costs.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # A rank that never reports would be waited for for ever.
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "600",
    # Records are ours; Tune's own files are logs that nobody reads.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "10",
    # What a sweep waits for, `harness.capacity` says, and better.
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000000",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S_AUTOSCALER": "1000000000",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""What Ray reads from the environment, and only before it is imported. A value that the user has set wins."""


LOOPBACK = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
"""Whether other machines may join, on whichever system: without them, Ray listens on loopback alone."""


def prepare_environment() -> None:
    """Set the defaults of `ENVIRONMENT` where the user has not; has to come before `import ray`.

    A job is as its cluster is: who submitted it has seen to it that both agree.
    """
    for key, value in ENVIRONMENT.items():
        if not (key == authentication.MODE and job.current()):
            os.environ.setdefault(key, value)


@contextmanager
def connected(scale: Scale) -> Iterator[None]:
    """A Ray connection for the length of the block.

    A connection that this process has already is used and kept. With RAY_ADDRESS set (also inside a Ray job) that
    cluster is used; otherwise one is started on this machine and stopped at the end.
    """
    prepare_environment()
    given = bool(os.environ.get("RAY_ADDRESS"))
    with nullcontext() if given else _on_loopback():
        import ray

        if ray.is_initialized():
            yield
            return
        if given:
            _join(ray)
        else:
            authentication.ensure_token()
            ray.init(address="local", **_local(scale))
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have a Ray that is started within the block listen on loopback alone, and none that is started after it."""
    name, value = LOOPBACK
    ours = name not in os.environ
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if ours:
            os.environ.pop(name, None)


def is_given() -> bool:
    """Whether there is a cluster already: this process is connected to one, or RAY_ADDRESS names it."""
    if os.environ.get("RAY_ADDRESS"):
        return True
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def _join(ray: Any) -> None:
    """Connect to the cluster that RAY_ADDRESS names; its workers get our `ENVIRONMENT`, as those of our own do."""
    if (address := _head()) and not job.current():
        authentication.agree(address)
    # What the job's own environment names already must not be named again.
    ours = {key: os.environ[key] for key in ENVIRONMENT if key != authentication.MODE and key not in job.variables()}
    ray.init(logging_level=logging.ERROR, log_to_driver=False, runtime_env={"env_vars": ours})


def _head() -> str | None:
    """Host and port of the head that RAY_ADDRESS names, where Ray would look for it; None where it looks further."""
    address = os.environ["RAY_ADDRESS"]
    if address == "auto":
        note = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
        return note.read_text().strip() if note.exists() else None
    return None if "://" in address or address == "local" else address


def on_every_node(function: Callable, *arguments: Any) -> "Everywhere":
    """Call a function once on every node of the cluster that is given, on all at the same time."""
    prepare_environment()
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not ray.is_initialized():
        _join(ray)
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    tasks = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            tasks[task.options(scheduling_strategy=there).remote(*arguments)] = node["NodeManagerHostname"]
    return Everywhere(tasks)


class Everywhere:
    """Yields each node's name with what came out there, as they come: the result, or the exception."""

    def __init__(self, tasks: Mapping[Any, str]):
        self._tasks, self.total = dict(tasks), len(tasks)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        import ray

        while self._tasks:
            for done in ray.wait(list(self._tasks))[0]:
                try:
                    outcome = ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    outcome = error.cause
                except ray.exceptions.RayError as error:
                    outcome = error
                yield self._tasks.pop(done), outcome


def _local(scale: Scale) -> dict[str, Any]:
    """Arguments of `ray.init` for a small cluster in this process's care, reachable from this machine only."""
    quiet = {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "object_store_memory": 128 * 2**20,
        "num_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    if scale.workers == 1:
        return {**quiet, "include_dashboard": False}
    # Train frees the places of a stopped trial through the dashboard's API, which it has to find among several Rays.
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    return {
        **quiet,
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": port,
        "runtime_env": {"env_vars": {"RAY_API_SERVER_ADDRESS": address}},
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
