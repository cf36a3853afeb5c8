"""`harness plan` from records that were made up, for machines that are not there, and once with a real probe."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import provenance, record
from harness.data import prepare
from tests.experiments import EXPERIMENT
from tests.test_storage import planned, written
from tests.test_timing import took

CLUSTER: dict[str, Any] = {
    "cluster_name": "many", "max_workers": 4, "provider": {"type": "aws"}, "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {}},
        "cpu": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 4},
    },
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _digits() -> None:
    prepare.prepare("digits")


def cluster(folder: Path, **changes: Any) -> Path:
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(CLUSTER | changes))
    return file


def measured(folder: Path, file: Path, **changes: Any) -> None:
    """A record of each of the experiment's methods, in another experiment's folder below the same results."""
    _, trials = planned(file)
    for trial in {trial.label: trial for trial in trials}.values():
        result = took(trial.time_steps, per_sample=0.002, batch_size=trial.train.batch_size)
        content = {"trial": trial.model_dump(mode="json"), "machine": provenance.machine(), **changes}
        record.write(result.model_copy(update={"id": trial.id[::-1], **content}), folder / "elsewhere")


def plan(harness: Any, *arguments: object) -> dict[str, Any]:
    code, shown, errors = harness("plan", *arguments, "--json")
    assert code == 0, errors
    return json.loads(shown)


def test_forecast_comes_from_records_of_this_machine_and_writes_nothing(tmp_path, harness):
    results = tmp_path / "results"
    file = written(tmp_path, str(results), train={"epochs": 10, "batch_size": 128})
    measured(results, file)
    before = sorted(results.rglob("*"))
    found = plan(harness, file)
    assert found["trials"] == {"all": 4, "measured": 0, "due": 4, "forecast": 4}
    assert {row["from"] for row in found["rows"]} == {"1 record"}
    # 10 epochs of 10 batches of 128 samples at 2 ms, and the start of a second.
    each = 10 * 1280 * 0.002 + 1
    assert found["hours"]["CPU"]["expected"] * 3600 == pytest.approx(4 * each, rel=0.02)
    assert found["wall_seconds"]["low"] <= found["wall_seconds"]["expected"] <= found["wall_seconds"]["high"]
    assert sorted(results.rglob("*")) == before
    code, shown, _ = harness("plan", file, "--price", "machine=3600")
    assert code == 0
    assert "cost: " in shown
    assert "USD (" in shown


def test_a_cluster_has_its_own_places_prices_and_machine(tmp_path, harness):
    results = tmp_path / "results"
    file = written(tmp_path, str(results), seeds=list(range(8)))
    measured(results, file, machine={"cpu": "Fast CPU", "gpus": []})
    found = plan(harness, file, "--cluster", cluster(tmp_path), "--price", "cpu=2", "--price", "head=1")
    assert (found["places"], found["machine"]) == (8, "CPU Fast CPU")
    assert found["nodes_used"] == {"head": 1, "cpu": 4}
    hours = found["wall_seconds"]["expected"] / 3600
    assert found["cost"]["expected"] == pytest.approx(9 * hours)
    said = plan(harness, file, "--cluster", cluster(tmp_path), "--price", "cpu=2")
    assert said["cost"] == "no price was given for head (--price head=USD for one node and hour)"
    priced = cluster(tmp_path, metadata={"usd_per_hour": {"cpu": 2, "head": 1}})
    assert plan(harness, file, "--cluster", priced)["cost"]["expected"] == pytest.approx(9 * hours)


def test_gpus_are_not_forecast_from_cpus(tmp_path, harness):
    results = tmp_path / "results"
    file = written(tmp_path, str(results))
    measured(results, file)
    types = CLUSTER["available_node_types"] | {
        "h100": {"resources": {"CPU": 96, "GPU": 8}, "node_config": {}, "max_workers": 2}
    }
    found = plan(harness, file, "--cluster", cluster(tmp_path, available_node_types=types), "--price", "h100=98.32")
    assert found["places"] == 16
    assert found["trials"]["forecast"] == 0
    assert "no measurement on a GPU is there; measure on such a node; run: harness plan" in found["unknown"][0]


def test_two_machines_have_to_be_told_apart(tmp_path, harness):
    results = tmp_path / "results"
    file = written(tmp_path, str(results))
    measured(results / "a", file, machine={"cpu": "Fast CPU", "gpus": []})
    measured(results / "b", file, machine={"cpu": "Slow CPU", "gpus": []})
    code, _, errors = harness("plan", file, "--cluster", cluster(tmp_path))
    assert (code, errors) == (2, "harness: --machine: measured on several, name one: CPU Fast CPU, CPU Slow CPU\n")
    assert plan(harness, file, "--cluster", cluster(tmp_path), "--machine", "slow")["machine"] == "CPU Slow CPU"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--price", "h100"], "--price h100: expected TYPE=USD"),
        (["--cluster", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
        (["--records", "nowhere"], "nowhere: no such file or folder"),
        (["--set", "scale.cpus_per_worker=1000"], "right would be scale.cpus_per_worker:"),
    ],
)
def test_wrong_requests_are_one_line(tmp_path, harness, arguments, told):
    code, shown, errors = harness("plan", written(tmp_path, str(tmp_path / "results")), *arguments)
    assert (code, shown, errors.count("\n")) == (2, "", 1), errors
    assert told in errors


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_probe_measures_every_method_and_leaves_what_other_forecasts_need(tmp_path, harness):
    changes: dict[str, Any] = {
        "methods": ["ann", {"name": "conversion", "start": "ann", "time_steps": [2]}],
        "seeds": 0,
    }
    file = written(tmp_path, str(tmp_path / "results"), train={"epochs": 50, "batch_size": 64}, **changes)
    found = plan(harness, file, "--probe")
    assert found["trials"] == {"all": 2, "measured": 0, "due": 2, "forecast": 2}
    assert not any("starting Ray" in note for note in found["notes"])
    assert all("probe" in row["from"] for row in found["rows"])
    left = [path.name for path in (tmp_path / "results" / EXPERIMENT["name"]).iterdir()]
    assert len(left) == 1
    assert left[0].startswith("probe-CPU")
    again = plan(harness, file)
    assert again["wall_seconds"]["expected"] == pytest.approx(found["wall_seconds"]["expected"], rel=0.2)
