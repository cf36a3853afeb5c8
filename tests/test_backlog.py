"""Stages without Ray: what runs before what, and what becomes of a trial whose start is not there."""

from pathlib import Path
from typing import Any

import pytest

from harness import attempt, backlog, plan, record, sweep
from harness.config import Experiment
from harness.data import prepare
from harness.experiment_file import ConfigError
from harness.record import Record
from tests.experiments import EXPERIMENT

pytestmark = pytest.mark.slow

FIRST = {"name": "bptt", "label": "first", "time_steps": 1}
SECOND = {"name": "bptt", "label": "second", "start": "first", "train": {"lr": 0.01}}
THIRD = {"name": "bptt", "label": "third", "start": "second", "train": {"epochs": 0}}


class Stages:
    """A small experiment of three stages at one seed; `first` may be changed so that it goes wrong."""

    def __init__(self, folder: Path, **first: Any) -> None:
        content = EXPERIMENT | {"results": str(folder), "seeds": 0, "methods": [THIRD, SECOND, FIRST | first]}
        self.experiment = Experiment.model_validate(content)
        self.trials = {t.label: t for t in plan.expand(self.experiment, prepare.info("digits"))}
        self.shared = sweep.run_of(self.experiment)

    def run(self, label: str) -> Record:
        return sweep.run_one(self.experiment, self.trials[label], lambda metrics: None)

    def records(self) -> dict[str, Record]:
        return {result.trial["label"]: result for result in record.read_all([self.experiment.folder])}


@pytest.fixture(autouse=True, scope="module")
def _digits() -> None:
    prepare.prepare("digits")


def test_the_trial_before_runs_first_and_only_once(tmp_path):
    stages = Stages(tmp_path)
    third = stages.run("third")
    assert third.outcome == "done", third.reason
    found = stages.records()
    assert {label: len(result.history) for label, result in found.items()} == {"first": 2, "second": 2, "third": 0}
    # What is not trained is what it started from, at the same T.
    assert third.accuracy == found["second"].accuracy
    assert third.validation_accuracy == found["second"].validation_accuracy
    # And what is trained at T = 2 began where T = 1 ended: its first epoch is better than that one's.
    assert found["second"].history[0].train_loss < found["first"].history[0].train_loss
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert stages.run("third") == third
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert backlog.due(stages.trials.values(), stages.experiment.folder) == []


@pytest.mark.parametrize(
    ("first", "outcome", "outcomes"),
    [
        ({"train": {"batch_size": 100_000}}, "failed", {"failed"}),
        ({"train": {"lr": 1e30}}, "diverged", {"skipped"}),
    ],
)
def test_what_starts_from_a_trial_without_a_result_says_so(tmp_path, first, outcome, outcomes):
    stages = Stages(tmp_path, **first)
    stages.run("third")
    found = stages.records()
    assert found["first"].outcome == outcome
    assert {found["second"].outcome, found["third"].outcome} == outcomes
    assert found["second"].reason.startswith(
        f"starts from first T=1 seed 0 ({found['first'].id}), which is '{outcome}': {found['first'].reason}"
    )
    assert found["third"].reason.startswith("starts from second T=2 seed 0")
    # A failure is tried again, together with all that waits for it.
    again = {trial.label for trial in backlog.due(stages.trials.values(), stages.experiment.folder)}
    assert again == ({"first", "second", "third"} if outcome == "failed" else set())


def test_lost_weights_are_refused_with_what_to_do(tmp_path):
    stages = Stages(tmp_path)
    stages.run("second")
    weights = stages.shared.weights(stages.trials["second"])
    moved = weights.rename(weights.with_name("elsewhere"))
    with pytest.raises(ConfigError, match=r"no weights of .second. to start from; copy them here .* or delete") as told:
        stages.run("third")
    assert "\n" not in str(told.value)
    assert str(weights) in str(told.value)
    assert "third" not in stages.records()
    moved.rename(weights)
    assert stages.run("third").outcome == "done"


def test_weights_that_do_not_fit_become_a_failed_record_that_names_them(tmp_path):
    content = EXPERIMENT | {"results": str(tmp_path), "seeds": 0, "methods": [
        {"name": "ann", "settings": {"readout": "rectified"}}, {"name": "bptt", "start": "ann"},
    ]}  # fmt: skip
    experiment = Experiment.model_validate(content)
    trials = plan.expand(experiment, prepare.info("digits"))
    result = sweep.run_one(experiment, trials[1], lambda metrics: None)
    assert result.outcome == "failed"
    assert "unknown to the network: readout.0.weight" in str(result.reason)


def test_a_trial_that_was_stopped_goes_on_without_the_weights_it_started_from(tmp_path, monkeypatch):
    stages, whole = Stages(tmp_path / "stopped"), Stages(tmp_path / "whole")
    expected = whole.run("second")

    def stop(metrics: dict) -> None:
        raise KeyboardInterrupt

    stages.run("first")
    second = stages.trials["second"]
    with pytest.raises(KeyboardInterrupt):
        attempt.recorded(second, stages.shared, lambda: sweep.run_trial(second, stages.shared, report=stop))
    stages.shared.weights(stages.trials["first"]).unlink()
    found = stages.run("second")
    assert found.restarts == 1
    assert found.accuracy == expected.accuracy
    assert [e.train_loss for e in found.history] == [e.train_loss for e in expected.history]
