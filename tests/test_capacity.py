"""Room on a cluster: nodes that come and go while a sweep runs, and a cluster that has to be asked for them."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from harness import capacity, cluster_file, record
from harness.capacity import Room
from harness.data import prepare
from harness.experiment_file import ConfigError
from harness.places import Need, Node
from tests import growing_cluster
from tests.experiments import EXPERIMENT

WORKER = {"resources": {"CPU": 1, "object_store_memory": 80_000_000}, "node_config": {}, "max_workers": 2}


class Tune:
    """What a follower sees of Tune, and the nodes and requests of a cluster that only exists here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: Room, total: int) -> None:
        self.nodes: list[Node] = []
        self.requests: list[Any] = []
        self.algorithm = SimpleNamespace(max_concurrent=1)
        self.follower = capacity._Follower(room, total, self.algorithm)
        monkeypatch.setattr(capacity, "nodes", lambda: self.nodes)
        monkeypatch.setattr(capacity, "_requested", self.request)
        monkeypatch.setattr(capacity, "_withdraw", self.requests.remove)

    def request(self, need: Need) -> Any:
        self.requests.append(made := SimpleNamespace(wait=lambda seconds: made.met, met=False))
        return made

    def limit(self, nodes: list[Node], finished: int = 0) -> int:
        """Trials at once after the follower has seen these nodes."""
        self.nodes, self.follower.looked = nodes, -float("inf")
        trial = SimpleNamespace(status="TERMINATED", is_finished=lambda: True)
        self.follower.look([trial] * finished)
        return self.algorithm.max_concurrent


def test_nodes_that_come_get_trials_and_nodes_that_go_get_none(monkeypatch):
    tune = Tune(monkeypatch, Room(Need(2, cpus=1)), total=100)
    assert tune.limit([Node(4)]) == 2
    assert tune.limit([Node(4), Node(4)]) == 4
    assert tune.limit([Node(2)]) == 1
    assert tune.limit([]) == 1  # Tune takes zero for no limit; the one then waits for its place
    assert not tune.requests  # this cluster does not grow, so nobody asks it to


def test_max_concurrent_holds_however_large_the_cluster_is(monkeypatch):
    assert Tune(monkeypatch, Room(Need(1, cpus=1), limit=3), total=100).limit([Node(64)]) == 3


def test_a_cluster_that_grows_is_asked_for_as_many_places_as_there_are_trials_left(monkeypatch):
    tune = Tune(monkeypatch, Room(Need(1, cpus=2), grown=[Node(2)] * 10), total=8)
    tune.limit([Node(2)])
    assert len(tune.requests) == 7
    tune.limit([Node(2)] * 5)
    assert len(tune.requests) == 3
    tune.limit([Node(2)] * 5, finished=6)
    assert not tune.requests
    tune.limit([Node(2)])
    tune.follower.recall()
    assert not tune.requests


def test_a_request_that_was_met_does_not_hold_the_place_that_it_found(monkeypatch):
    tune = Tune(monkeypatch, Room(Need(1, cpus=2), grown=[Node(2)] * 3), total=8)
    tune.limit([Node(2)])
    (met, _) = tune.requests
    met.met = True
    tune.limit([Node(2)])
    assert met not in tune.requests
    assert len(tune.requests) == 2


def test_cluster_file_gives_each_type_its_nodes_within_the_limit_of_all(tmp_path):
    file = tmp_path / "cluster.yaml"
    content = {
        "max_workers": 4, "head_node_type": "head", "metadata": {"usd_per_hour": {"gpu": 98.32}},
        "available_node_types": {
            "head": {"resources": {"CPU": 4}},
            "cpu": {"resources": {"CPU": 16}, "min_workers": 1, "max_workers": 8},
            "gpu": {"resources": {"CPU": 96, "GPU": 8}, "max_workers": 3},
        },
    }  # fmt: skip
    file.write_text(yaml.safe_dump(content))
    found = cluster_file.read(file)
    # Those that hold a trial come first: it is never refused because others would fill the cluster.
    assert [node.kind for node in found.nodes(Need(1, 1, gpus=1))] == ["head", "gpu", "gpu", "gpu", "cpu"]
    assert found.prices == {"gpu": 98.32}
    assert {each.node.kind: each.fewest for each in found.types} == {"head": 0, "cpu": 1, "gpu": 0}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("provider: {type: local}", "no 'available_node_types'"),
        ("available_node_types: {a: {node_config: {}}}", r"a.resources: how many CPUs and GPUs\?"),
        ("available_node_types: {a: {resources: {CPU: 1}}}\nhead_node_type: b", "head_node_type: found 'b'"),
        ("a: [", "not valid YAML"),
    ],
)
def test_cluster_files_that_say_too_little_are_refused_in_one_line(tmp_path, content, told):
    file = tmp_path / "cluster.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=told) as caught:
        cluster_file.read(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def sweep(folder: Path, environment: dict[str, str], **changes: Any) -> subprocess.Popen[str]:
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(EXPERIMENT | {"results": str(folder / "results")} | changes))
    command = [sys.executable, "-m", "harness", "sweep", str(file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_growing_cluster_is_asked_waited_for_and_used_and_what_it_can_never_hold_is_refused(tmp_path):
    prepare.prepare("digits")
    with growing_cluster.started({"worker": WORKER}) as environment:
        never = sweep(tmp_path, environment, scale={"workers": 4})
        _, errors = never.communicate(timeout=120)
        assert never.returncode == 2, errors
        assert "scale, even when the cluster has grown as far as it may: a trial needs 4 workers x (1 CPUs)" in errors
        assert "2 x node of type worker (1 CPUs, 0 GPUs) holding 1 workers each" in errors
        assert "right would be scale.workers: 2 at most" in errors
        assert not (tmp_path / "results").exists()

        grows = sweep(tmp_path, environment)
        _, errors = grows.communicate(timeout=200)
        assert grows.returncode == 0, errors
        said = "waiting for nodes: a trial needs 1 CPUs; the cluster has 1 x head (0 CPUs, 0 GPUs"
        assert said in errors
        assert "can grow to" in errors
        assert [result.outcome for result in record.read_all([tmp_path / "results"])] == ["done"] * 4
