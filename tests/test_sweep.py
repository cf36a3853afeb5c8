"""Sweeps with real processes: Ray, signals and kills. Each Ray start costs about ten seconds, so few of them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import cluster, experiment_file, plan, record, sweep, trial, tuning, workers
from harness.config import Evaluation, Experiment, Scale
from harness.data import prepare
from harness.experiment_file import ConfigError
from harness.record import Record
from tests.experiments import EXPERIMENT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True, scope="module")
def _digits() -> None:
    prepare.prepare("digits")


def written(folder: Path, **changes: Any) -> Path:
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(EXPERIMENT | {"results": str(folder / "results")} | changes))
    return file


def command(file: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "harness", "sweep", str(file), *options]


def run(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(file, *options), capture_output=True, text=True, timeout=500)


def records(folder: Path) -> dict[str, Record]:
    return {result.id: result for result in record.read_all([folder / "results"])}


def learned(result: Record) -> tuple:
    """What must not depend on how a trial was started or how often it was killed."""
    return result.accuracy, [(e.train_loss, e.validation_accuracy) for e in result.history]


def trials_of(file: Path) -> tuple[Experiment, list[plan.Trial]]:
    experiment = experiment_file.load(file)
    return experiment, plan.expand(experiment, prepare.info("digits"), file=str(file))


def test_sweep_records_every_trial_and_a_second_run_measures_nothing(tmp_path):
    file = written(tmp_path)
    first = run(file)
    assert first.returncode == 0, first.stderr
    assert "bptt" in first.stdout
    found = records(tmp_path)
    assert sorted((r.trial["method"], r.trial["seed"]) for r in found.values()) == [
        ("ann", 0), ("ann", 1), ("bptt", 0), ("bptt", 1),
    ]  # fmt: skip
    for result in found.values():
        assert result.outcome == "done"
        assert sorted(result.accuracy) == list(range(1, result.trial["time_steps"] + 1))
        assert result.test_samples == 360
        assert result.commit
        assert result.versions["torch"]
    names = {path.name for path in (tmp_path / "results" / "small").iterdir()}
    assert {"table.md", "table.csv", "accuracy.svg", "accuracy.png", "experiment.yaml"} <= names
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")}
    second = run(file, "--json")
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)
    assert "4 of 4 trials were measured before" in second.stderr
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_failed_and_diverged_trials_are_recorded_and_the_rest_go_on(tmp_path):
    methods = [
        "ann",
        {"name": "ann", "label": "too large", "train": {"batch_size": 100_000}},
        {"name": "ann", "label": "too fast", "train": {"lr": 1e30}},
    ]
    result = run(written(tmp_path, methods=methods, seeds=0))
    assert result.returncode == 3, result.stderr
    found = {r.trial["label"]: r for r in records(tmp_path).values()}
    assert {label: r.outcome for label, r in found.items()} == {
        "ann": "done", "too large": "failed", "too fast": "diverged",
    }  # fmt: skip
    assert "100000" in found["too large"].reason
    assert "not finite at step" in found["too fast"].reason
    assert not found["too fast"].accuracy


@pytest.fixture(scope="module")
def ray_here():
    """One Ray for the sweeps that run in this process."""
    with cluster.connected(Scale(workers=2)):
        yield


UNMIXED = {"methods": ["ann"], "seeds": 0, "network": {"name": "mlp", "hidden": [16], "batch_norm": False}}
"""Without batch norm a sample's gradient does not depend on who else is in its worker's batch."""


def test_a_tune_actor_and_ray_train_learn_what_one_process_learns(tmp_path, ray_here, monkeypatch):
    """A single worker to the bit, either way; two workers within rounding."""
    experiment, (one,) = trials_of(written(tmp_path, **UNMIXED))
    alone = trial.run(one, trial.Run(experiment="a", folder=str(tmp_path / "alone"), evaluation=Evaluation()))
    (in_actor,) = sweep.run(experiment, [one]).records
    assert learned(in_actor) == learned(alone)

    monkeypatch.setattr(tuning, "in_actor", workers.with_workers)
    elsewhere = experiment.model_copy(update={"results": str(tmp_path / "train")})
    (in_train,) = sweep.run(elsewhere, [one]).records
    assert learned(in_train) == learned(alone)

    experiment, (two,) = trials_of(written(tmp_path, **UNMIXED, scale={"workers": 2}))
    (shared,) = sweep.run(experiment, [two]).records
    assert shared.outcome == "done", shared.reason
    assert shared.test_samples == alone.test_samples == 360
    for ours, theirs in zip(shared.history, alone.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)


def test_stages_run_one_after_the_other_and_a_failure_stops_only_what_waits_for_it(tmp_path, ray_here):
    methods = [
        {"name": "conversion", "start": "ann", "time_steps": [2, 8]},
        {"name": "conversion", "label": "of nothing", "start": "too large"},
        {"name": "bptt", "start": "ann"},
        "ann",
        {"name": "ann", "label": "too large", "train": {"batch_size": 100_000}},
    ]
    experiment, trials = trials_of(written(tmp_path, methods=methods, seeds=0))
    assert sorted(sweep.ahead(experiment, trials)) == [0, 0, 0, 2, 2, 2]
    ended = Ended()
    found = {(r.trial["label"], r.trial["time_steps"]): r for r in sweep.run(experiment, trials, [ended]).records}
    assert {label: r.outcome for label, r in found.items()} == {
        ("ann", 1): "done", ("bptt", 2): "done", ("conversion", 2): "done", ("conversion", 8): "done",
        ("too large", 1): "failed", ("of nothing", 2): "failed",
    }  # fmt: skip
    assert "starts from too large T=1" in found["of nothing", 2].reason
    assert sorted(ended.labels) == sorted(label for label, _ in found)
    assert set(ended.labels[:2]) == {"ann", "too large"}
    started = next(t for t in trials if t.method == "bptt")
    alone = experiment.model_copy(update={"results": str(tmp_path / "alone")})
    assert learned(found["bptt", 2]) == learned(sweep.run_one(alone, started, lambda metrics: None))


class Ended:
    """Notes which trial has its record, in that order."""

    def __init__(self) -> None:
        self.labels: list[str] = []

    def epoch(self, trial_id: str, epoch: int, metrics: dict[str, Any]) -> None:
        pass

    def finished(self, result: Record) -> None:
        self.labels.append(result.trial["label"])


def test_trial_that_can_never_fit_is_refused_with_the_arithmetic(tmp_path, ray_here):
    experiment, trials = trials_of(written(tmp_path, scale={"workers": 4, "cpus_per_worker": 1000}))
    with pytest.raises(ConfigError, match=r"4 workers x \(1000 CPUs\) = 4000 CPUs, .* the cluster has 1 x head"):
        sweep.run(experiment, trials)
    assert not experiment.folder.exists()


def test_optuna_fills_its_study_and_continues_it(tmp_path, ray_here):
    search = {"search": "optuna", "trials": 2, "space": {"train.lr": {"low": 0.01, "high": 0.5, "log": True}}}
    experiment, trials = trials_of(written(tmp_path, methods=["ann"], seeds=0, sweep=search))
    assert sweep.ahead(experiment, trials) == [2, 2]
    assert len(sweep.run(experiment, trials).records) == 2
    more = experiment.model_copy(update={"sweep": experiment.sweep.model_copy(update={"trials": 3})})
    assert sweep.ahead(more, trials) == [2]
    found = sweep.run(more, trials).records
    assert len({result.trial["train"]["lr"] for result in found}) == 3
    assert {result.outcome for result in found} == {"done"}


def test_asha_stops_the_worse_points_and_says_so(tmp_path, ray_here):
    search = {
        "search": "random", "trials": 8, "asha": {"grace_epochs": 1, "reduction_factor": 2}, "max_concurrent": 1,
        "space": {"train.lr": {"low": 1e-6, "high": 0.5, "log": True}},
    }  # fmt: skip
    experiment, trials = trials_of(written(tmp_path, methods=["ann"], seeds=0, sweep=search, train={"epochs": 8}))
    found = sweep.run(experiment, trials).records
    assert len(found) == 8
    stopped = [result for result in found if result.outcome == "skipped"]
    # Points come one after the other, so one that is not among the best half of those before it has to stop.
    assert stopped
    assert len(stopped) < 8
    assert all("stopped early by ASHA after epoch" in str(result.reason) for result in stopped)
    assert sweep.ahead(experiment, trials) == []
