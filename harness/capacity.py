"""What the cluster has room for: the nodes as Ray sees them, waiting for more where more can come, and asking for them.

How many nodes an autoscaling cluster may get, no Ray process says. So it is read from the cluster's file: the one that
HARNESS_CLUSTER names or, where the driver runs on a head that `ray up` has set up, the one that it left there.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import cluster_file, places
from harness.config import Scale
from harness.experiment_file import ConfigError
from harness.places import Need, Node

log = logging.getLogger(__name__)

FILE = "HARNESS_CLUSTER"
"""Environment variable that names the file of a cluster that grows."""
LAUNCHED = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves the cluster's file on the head."""
SAY_EVERY_SECONDS, LACKING_SECONDS, LOOK_EVERY_SECONDS = 60, 10, 2
MOST_SCOUTS = 200
"""Requests for further nodes at the same time."""


@dataclass(frozen=True)
class Room:
    """What one trial takes, and how many of them may run at once."""

    need: Need
    limit: int | None = None
    """`sweep.max_concurrent`."""
    grown: Sequence[Node] | None = None
    """The nodes of the cluster when it has grown as far as it may; None: it does not grow."""

    def places(self, nodes: Sequence[Node]) -> int:
        """Trials at once on these nodes."""
        fitting = places.fits(self.need, nodes)
        return min(fitting, self.limit) if self.limit else fitting


def nodes() -> list[Node]:
    """The nodes of the connected cluster that are alive."""
    import ray

    return [_node(each["Resources"]) for each in ray.nodes() if each["Alive"]]


def room(scale: Scale, limit: int | None) -> Room:
    """How trials fit on the connected cluster; `limit`: no more of them at once.

    Raises ConfigError, with the arithmetic for every node, when not even one ever fits.
    """
    found, grows = nodes(), growing()
    types = [each.node for each in grows.types if each.most] if grows else []
    need = places.need(scale, places.gpus_per_worker(scale, [*found, *types]))
    decided = Room(need, limit, _merged(found, grows.nodes(need)) if grows else None)
    if not places.fits(need, found) and not places.fits(need, decided.grown or ()):
        raise ConfigError(_refusal(decided, found))
    return decided


def wait(room: Room, *, unless: Callable[[], bool] = lambda: False) -> None:
    """Return once the cluster has the nodes for one trial, or `unless()`; ask for them and say what is waited for."""
    if places.fits(room.need, nodes()):
        return
    request, said = _requested(room.need), -float("inf")
    try:
        while not (places.fits(room.need, found := nodes()) or unless()):
            if time.monotonic() - said > SAY_EVERY_SECONDS:
                said = time.monotonic()
                log.warning(_reason(room, found))
            # Returns early once the nodes are there.
            request.wait(LOOK_EVERY_SECONDS)
    finally:
        _withdraw(request)


def growing() -> cluster_file.ClusterFile | None:
    """The file of the connected cluster if it is one that grows by itself, as far as that can be known."""
    if not os.environ.get("RAY_ADDRESS"):
        return None  # one that this process has started on its own machine
    if named := os.environ.get(FILE):
        return cluster_file.read(Path(named).expanduser())
    return cluster_file.read(LAUNCHED.expanduser()) if LAUNCHED.expanduser().exists() and _on_head() else None


def limited(room: Room, searcher: Any, total: int) -> tuple[Any, Any]:
    """Tune's search algorithm that starts no more trials than fit, and the callback that keeps that number right.

    Nodes come and go while a sweep runs, so the number is not fixed at the start. `total`: trials to run in all.
    """
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter

    algorithm = ConcurrencyLimiter(searcher, max_concurrent=max(room.places(nodes()), 1))
    follower = _Follower(room, total, algorithm)

    class Callback(tune.Callback):
        def __reduce__(self) -> Any:
            return tune.Callback, ()

        def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
            follower.look(trials)

        def on_experiment_end(self, trials: list, **info: Any) -> None:
            follower.recall()

    return algorithm, Callback()


@dataclass
class _Follower:
    """Sets how many trials Tune may have at once by the nodes that there are, and asks for more where more can come."""

    room: Room
    total: int
    algorithm: Any
    looked: float = -float("inf")
    idle_since: float = field(default_factory=time.monotonic)
    said: float = 0.0
    """When it was last said what is waited for; 0: not since a trial ran."""
    scouts: list[Any] = field(default_factory=list)
    """Placement groups as a trial's own would be: what makes the autoscaler start nodes."""

    def look(self, trials: Sequence[Any]) -> None:
        """Bring everything up to date, every few seconds."""
        if (now := time.monotonic()) - self.looked < LOOK_EVERY_SECONDS:
            return
        self.looked, found = now, nodes()
        fitting = self.room.places(found)
        if any(trial.status == "RUNNING" for trial in trials):
            self.idle_since, self.said = now, 0.0
        elif now - max(self.idle_since, self.said) > (SAY_EVERY_SECONDS if fitting or self.said else LACKING_SECONDS):
            self.said = now
            log.warning(_reason(self.room, found))
        finished = sum(trial.is_finished() for trial in trials)
        # Zero would mean no limit; with one, Tune's own request waits until there is a place again.
        self.algorithm.max_concurrent = max(fitting, 1)
        if self.room.grown is not None:
            self._ask(min(self.room.places(self.room.grown), self.total - finished) - max(fitting, 1))

    def _ask(self, missing: int) -> None:
        """Have as many requests waiting as places are missing; one that was met found its nodes, or room."""
        for scout in [scout for scout in self.scouts if scout.wait(0)]:
            self._remove(scout)
        while len(self.scouts) > max(missing, 0):
            self._remove(self.scouts[-1])
        while len(self.scouts) < min(missing, MOST_SCOUTS):
            self.scouts.append(_requested(self.room.need))

    def recall(self) -> None:
        """Ask for nothing any more."""
        for scout in list(self.scouts):
            self._remove(scout)

    def _remove(self, scout: Any) -> None:
        _withdraw(scout)
        self.scouts.remove(scout)


def _requested(need: Need) -> Any:
    """A placement group as one trial needs it."""
    from ray.util.placement_group import placement_group

    each = {"CPU": need.cpus, "GPU": need.gpus, "memory": int(need.memory_gb * 1e9)}
    bundle = {name: amount for name, amount in each.items() if amount}
    return placement_group([bundle] * need.workers, strategy=need.placement.upper())


def _withdraw(request: Any) -> None:
    from ray.util.placement_group import remove_placement_group

    remove_placement_group(request)


def _reason(room: Room, found: Sequence[Node]) -> str:
    now = f"a trial needs {room.need}; the cluster has {places.summary(found)}"
    if places.fits(room.need, found):
        return f"waiting for other work on the cluster to end: {now}, and nothing free"
    can = f" and can grow to {places.summary(room.grown)}" if room.grown is not None else ""
    return f"waiting for nodes: {now} now{can}"


def _refusal(room: Room, found: Sequence[Node]) -> str:
    if room.grown is not None:
        return f"scale, even when the cluster has grown as far as it may: {places.refusal(room.need, room.grown)}"
    hint = f"; if it can get more nodes by itself, name its file: {FILE}=clusters/….yaml"
    return f"scale: {places.refusal(room.need, found)}{hint if os.environ.get('RAY_ADDRESS') else ''}"


def _merged(found: Sequence[Node], grown: Sequence[Node]) -> list[Node]:
    """The grown cluster with the head as it really is: its file need not say how much memory that has."""
    heads = [node for node in found if node.is_head]
    return heads + [node for node in grown if not (heads and node.is_head)]


def _node(resources: Mapping[str, float]) -> Node:
    return Node(
        cpus=resources.get("CPU", 0.0), gpus=resources.get("GPU", 0.0), memory_bytes=resources.get("memory", 0.0),
        is_head="node:__internal_head__" in resources,
    )  # fmt: skip


def _on_head() -> bool:
    import ray

    here = ray.get_runtime_context().get_node_id()
    return any(each["NodeID"] == here and _node(each["Resources"]).is_head for each in ray.nodes())
