"""Trials that start from others: what the plan makes of `start`, with the real plug-ins and no training."""

import json
from pathlib import Path

import jsonschema
import pytest

from harness import experiment_file, plan, stages
from harness.config import Experiment, schema, smoke
from harness.data import prepare
from tests.test_plan import INFO, expand, experiment, refusal

ROOT = Path(__file__).parent.parent
SNN = {"name": "bptt", "label": "snn"}


def by_label(trials: list[plan.Trial], label: str) -> list[plan.Trial]:
    return [trial for trial in trials if trial.label == label]


def test_a_trial_starts_from_the_one_with_its_seed():
    trials = expand(methods=[SNN | {"start": "ann"}, "ann"])
    assert [trial.label for trial in trials] == ["snn"] * 4 + ["ann"] * 2  # the file's order
    anns = {trial.seed: trial for trial in by_label(trials, "ann")}
    for trial in by_label(trials, "snn"):
        assert trial.start == anns[trial.seed]
    assert stages.lineage(anns[0]) == []


def test_id_depends_on_where_a_trial_starts_and_survives_json():
    fresh, (started, *_) = expand(methods=[SNN])[0], expand(methods=[SNN | {"start": "ann"}, "ann"])
    other = expand(methods=[SNN | {"start": "ann"}, {"name": "ann", "train": {"lr": 0.7}}])[0]
    renamed = expand(methods=[SNN | {"start": "first"}, {"name": "ann", "label": "first"}])[0]
    assert len({fresh.id, started.id, other.id}) == 3
    assert renamed.id == started.id
    content = started.model_dump(mode="json")
    again = plan.Trial.model_validate_json(json.dumps(content))
    assert again == started
    assert again.id == started.id
    assert content["start"]["method"] == "ann"
    assert "start" not in content["start"]
    assert "start" not in fresh.model_dump()


def test_a_search_keeps_the_start_of_its_base():
    started = expand(methods=[SNN | {"start": "ann"}, "ann"])[0]
    moved = plan.at(started, {"settings.v_threshold": 0.3})
    assert moved.start == started.start
    assert moved.settings["v_threshold"] == 0.3


@pytest.mark.parametrize("folder", ["digits", "mnist"])
def test_ids_of_stored_records_still_stand(folder):
    stored = {file.stem: json.loads(file.read_text())["trial"] for file in (ROOT / "results" / folder).glob("*.json")}
    assert stored
    for name, trial in stored.items():
        assert plan.Trial.model_validate(trial).id == name


def test_planned_ann_trials_find_the_records_made_before_ann_had_settings():
    planned = experiment_file.load(ROOT / "configs" / "digits.yaml")
    anns = by_label(plan.expand(planned, prepare.info("digits")), "ann")
    assert len(anns) == 3
    assert all((ROOT / "results" / "digits" / f"{trial.id}.json").exists() for trial in anns)
    assert {json.dumps(trial.settings) for trial in anns} == {"{}"}


def test_by_default_it_starts_from_the_only_T_or_from_the_same():
    same = expand(methods=[{"name": "dsr", "start": "snn"}, SNN])
    assert {(t.time_steps, t.start.time_steps) for t in by_label(same, "dsr")} == {(2, 2), (4, 4)}
    only = expand(methods=[{"name": "dsr", "start": "snn"}, SNN | {"time_steps": 1}])
    assert {(t.time_steps, t.start.time_steps) for t in by_label(only, "dsr")} == {(2, 1), (4, 1)}


def test_a_named_T_is_the_one_it_starts_from():
    later = SNN | {"label": "later", "start": {"method": "snn", "time_steps": 2}, "time_steps": [4, 8]}
    trials = by_label(expand(methods=[later, SNN]), "later")
    assert {(t.time_steps, t.start.time_steps) for t in trials} == {(4, 2), (8, 2)}


def test_chains_run_in_waves_whatever_order_they_stand_in():
    third = {"name": "bptt", "label": "third", "start": "second"}
    second = {"name": "bptt", "label": "second", "start": "ann", "train": {"lr": 0.01}}
    trials = expand(methods=[third, second, "ann"], time_steps=4, seeds=0)
    assert [t.label for t in stages.lineage(trials[0])] == ["ann", "second"]
    assert [[t.label for t in wave] for wave in stages.waves(trials)] == [["ann"], ["second"], ["third"]]
    ids = {t.label: t.id for t in trials}
    assert [t.label for t in stages.due([trials[0]], lambda t: False)] == ["third", "second", "ann"]
    assert [t.label for t in stages.due([trials[0]], lambda t: t.id == ids["second"])] == ["third"]
    assert [[t.label for t in wave] for wave in stages.waves([trials[0], trials[2]])] == [["ann"], ["third"]]


GRID = {"name": "bptt", "label": "grid", "grid": {"v_threshold": [0.5, 1.0]}}


@pytest.mark.parametrize(
    ("methods", "complaint"),
    [
        ([SNN | {"start": "an"}, "ann"], "FILE: methods.0.start: no method 'an'; did you mean 'ann'?"),
        ([SNN | {"start": "snn"}], "FILE: methods.0.start: a method cannot start from itself: snn -> snn"),
        (
            [SNN | {"start": "b"}, {"name": "bptt", "label": "b", "start": "snn"}],
            "FILE: methods.1.start: a method cannot start from itself: snn -> b -> snn",
        ),
        (
            [SNN | {"start": "ann", "network": "convnet"}, "ann"],
            "FILE: methods.0.start: 'ann' has network 'mlp', 'snn' has 'convnet'; give both the same",
        ),
        (
            [SNN | {"start": "ann"}, {"name": "ann", "network": {"name": "mlp", "hidden": [3]}}],
            "'ann' has network 'mlp (hidden=[3])', 'snn' has 'mlp'",
        ),
        (
            [SNN | {"start": "grid"}, GRID],
            "FILE: methods.0.start: 'grid' has 2 trials at T=2, seed 0; give the one to start from a method block",
        ),
        (
            [SNN | {"start": "b", "time_steps": 8}, {"name": "bptt", "label": "b"}],
            "'b' has no trial at T=8 (there are: T=2, T=4); choose one, such as start: {method: b, time_steps: 4}",
        ),
        (
            [SNN | {"start": {"method": "ann", "time_steps": 4}}, "ann"],
            "'ann' has no trial at T=4 (there are: T=1); choose one of them or leave 'time_steps' out",
        ),
        (
            ["conversion"],
            "FILE: methods.0: 'conversion' trains nothing; say whose weights it takes, such as start: ann",
        ),
        (
            [{"name": "conversion", "start": "ann", "train": {"epochs": 3}}, "ann"],
            "FILE: methods.0.train.epochs: 'conversion' trains nothing; remove the key",
        ),
        (
            [{"name": "conversion", "start": "snn"}, SNN],
            "conversion needs a network of relu or qcfs activations to start from; 'bptt' has none",
        ),
        (
            [
                {"name": "conversion", "start": "ann", "settings": {"calibration_percentile": 99}},
                {"name": "ann", "settings": {"activation": "qcfs"}},
            ],
            "FILE: methods.0.settings: without effect, since activation: qcfs brings its thresholds: calibration_perc",
        ),
    ],
)
def test_a_start_that_cannot_be_is_refused_in_one_line(methods, complaint):
    assert complaint in refusal(methods=methods)


SEARCH = {"trials": 2, "space": {"settings.leak": {"low": 0.2, "high": 0.9}}}


def test_random_search_starts_from_what_is_not_searched():
    sweep = SEARCH | {"search": "random"}
    trials = by_label(expand(methods=[SNN | {"start": "ann"}, "ann"], sweep=sweep, seeds=0, time_steps=2), "snn")
    assert len({t.settings["leak"] for t in trials}) == 2
    assert {t.start.method for t in trials} == {"ann"}
    methods = [{"name": "dsr", "start": "snn"}, SNN]
    assert "'snn' has 2 trials at T=2, seed 0" in refusal(methods=methods, sweep=sweep)


def test_a_searched_value_that_the_method_refuses_is_one_line():
    sweep = {"search": "random", "trials": 1, "space": {"settings.levels": {"choices": [2]}}}
    found = refusal(methods=["ann"], sweep=sweep)
    assert found == "sweep.space: 'ann' with {'settings.levels': 2}: levels belong to activation: qcfs; a ReLU has none"


def test_optuna_has_no_start():
    sweep = SEARCH | {"search": "optuna"}
    assert "use search 'grid' or 'random'" in refusal(methods=[SNN | {"start": "ann"}, "ann"], sweep=sweep)


def test_settings_are_those_that_the_method_ties_to_the_task():
    methods = [{"name": "conversion", "start": "relu", "settings": {"calibration_batches": 2}},
               {"name": "ann", "label": "relu"}]  # fmt: skip
    trial = expand(methods=methods)[0]
    assert trial.settings["calibration_percentile"] == 99.9
    assert trial.settings["calibration_batches"] == 2
    assert trial.config().calibration_percentile == 99.9
    methods[1]["settings"] = {"activation": "qcfs"}
    del methods[0]["settings"]
    assert expand(methods=methods)[0].settings["calibration_percentile"] is None


def test_what_trains_nothing_is_planned_with_no_epochs_and_smoke_leaves_it_so():
    given = experiment(
        methods=[{"name": "conversion", "start": {"method": "ann", "time_steps": 1}}, "ann",
                 SNN | {"train": {"epochs": 0}}],
    )  # fmt: skip
    for each, epochs in ((given, 20), (smoke(given), 1)):
        trials = plan.expand(each, INFO)
        assert {t.label: t.train.epochs for t in trials} == {"conversion": 0, "ann": epochs, "snn": 0}


def test_a_start_can_be_written_short_overridden_and_checked_by_the_schema(tmp_path):
    content = experiment().model_dump(mode="json", exclude={"methods"})
    short = content | {"methods": [SNN | {"start": "ann"}, "ann"]}
    long = content | {"methods": [SNN | {"start": {"method": "ann", "time_steps": 1}}, "ann"]}
    for each in (short, long):
        jsonschema.validate(each, schema())
        assert Experiment.model_validate(each).methods[0].start.method == "ann"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content | {"methods": [SNN | {"start": {"methd": "ann"}}]}, schema())
    experiment_file.apply_override(short, "methods.snn.start.time_steps=1")
    assert short["methods"] == long["methods"]
    # What a sweep writes beside its records is an experiment file again.
    resolved = Experiment.model_validate(long).model_dump(mode="json")
    assert Experiment.model_validate(resolved) == Experiment.model_validate(long)
