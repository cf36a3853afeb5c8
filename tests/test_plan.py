"""The plan is pure, so these tests use the real plug-ins and no training."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import experiment_file, plan
from harness.config import Experiment
from harness.contract import DatasetInfo
from harness.experiment_file import ConfigError
from tests.tiny import unhurried

INFO = DatasetInfo(
    title="Toy", shape=(1, 8, 8), classes=10, sizes={"train": 100, "test": 50},
    mean=(0.5,), std=(0.5,), source="", licence="", citation="",
)  # fmt: skip


def experiment(**changes) -> Experiment:
    content = {
        "name": "toy", "dataset": "digits", "network": "mlp", "time_steps": [2, 4], "seeds": [0, 1],
        "methods": ["ann", {"name": "bptt", "grid": {"v_threshold": [0.5, 1.0]}}],
    }  # fmt: skip
    return Experiment.model_validate(content | changes)


def expand(**changes) -> list[plan.Trial]:
    return plan.expand(experiment(**changes), INFO, file="FILE")


def refusal(**changes) -> str:
    with pytest.raises(ConfigError) as caught:
        expand(**changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_grid_is_every_combination_and_ann_has_no_time_steps():
    trials = expand()
    assert len(trials) == 2 + 2 * 2 * 2
    assert {t.time_steps for t in trials if t.method == "ann"} == {1}
    assert len({t.id for t in trials}) == len(trials)


def test_trial_id_ignores_key_order_label_and_loader():
    trial = expand()[-1]
    content = trial.model_dump()
    backwards = dict(reversed(content.items())) | {"settings": dict(reversed(content["settings"].items()))}
    assert plan.Trial.model_validate(backwards).id == trial.id
    assert trial.model_copy(update={"label": "other"}).id == trial.id
    fed = trial.dataset.model_copy(update={"loader": "torch"})
    assert trial.model_copy(update={"dataset": fed}).id == trial.id


@pytest.mark.parametrize("file", sorted(Path("results/mnist").glob("????????????.json")), ids=lambda file: file.stem)
def test_trials_of_old_records_keep_their_ids_and_content(file):
    recorded = json.loads(file.read_text())["trial"]
    content = plan.Trial.model_validate(recorded).model_dump(mode="json")
    assert content["dataset"] == recorded["dataset"]
    assert plan.Trial.model_validate(recorded).id == file.stem


def test_keys_that_came_later_count_when_they_are_set():
    trial = expand()[-1]
    changed = trial.model_dump()
    changed["dataset"]["augment"]["cutout"] = 4
    changed = plan.Trial.model_validate(changed)
    assert changed.id != trial.id
    assert changed.model_dump()["dataset"]["augment"] == {"crop_padding": 0, "flip": False, "cutout": 4}


def test_trial_id_depends_on_everything_else():
    trial = expand()[-1]
    others = [
        trial.model_copy(update={"seed": 9}),
        trial.model_copy(update={"time_steps": 9}),
        trial.model_copy(update={"settings": trial.settings | {"v_threshold": 9.0}}),
        trial.model_copy(update={"train": trial.train.model_copy(update={"lr": 9.0})}),
        trial.model_copy(update={"dataset": trial.dataset.model_copy(update={"split_seed": 9})}),
        trial.model_copy(update={"selection": "last"}),
    ]
    assert len({trial.id, *(other.id for other in others)}) == len(others) + 1


def test_trial_survives_json():
    for trial in expand():
        again = plan.Trial.model_validate_json(trial.model_dump_json())
        assert again == trial
        assert again.id == trial.id


def test_unknown_method_and_setting_name_the_nearest():
    assert "did you mean 'bptt'" in refusal(methods=["bpttt"])
    assert refusal(methods=[{"name": "bptt", "settings": {"v_treshold": 1}}]).startswith(
        "FILE: methods.0.settings: v_treshold: unknown key; did you mean 'v_threshold'?"
    )
    assert "did you mean 'mlp'" in refusal(network="mpl")


def test_impossible_pairings_are_refused():
    assert refusal(methods=["ide"]).startswith("FILE: methods.0: 'ide' on network 'mlp', Toy: ")
    assert refusal(methods=["dsr"], network="400 (F400)").startswith("FILE: methods.0: 'dsr' on network '400 (F400)'")
    assert "has no time steps" in refusal(methods=[{"name": "ann", "time_steps": [3]}])


def test_method_can_override_recipe_and_unknown_recipe_keys_are_refused():
    trials = expand(methods=[{"name": "ann", "train": {"lr": 0.7}}], train={"epochs": 3})
    assert {(t.train.lr, t.train.epochs) for t in trials} == {(0.7, 3)}
    assert "did you mean 'epochs'" in refusal(methods=[{"name": "ann", "train": {"epoch": 1}}])


@pytest.mark.parametrize(
    ("train", "workers", "complaint"),
    [
        ({"micro_batches": 2}, 1, "methods.0: train.micro_batches: 'ottt' updates the weights more than once a batch"),
        ({"micro_batches": "auto"}, 1, "methods.0: train.micro_batches: 'ottt' updates the weights more than once"),
        ({"batch_size": 9}, 2, "methods.0: train.batch_size: 9 cannot be shared equally by 2 workers (scale.workers)"),
        ({"sync_batch_norm": True}, 1, "methods.0: train.sync_batch_norm: a single worker (scale.workers) sees all"),
    ],
)
def test_batches_that_cannot_be_are_refused(train, workers, complaint):
    online = {"name": "ottt", "settings": {"updates": "after_step"}}
    assert f"FILE: {complaint}" in refusal(methods=[online], train=train, scale={"workers": workers})


def test_parts_have_to_be_equal_and_norms_to_be_there():
    complaint = "train.micro_batches: 3 does not divide a worker's share of a batch, 32 of 64 samples"
    assert complaint in refusal(methods=["ann"], train={"micro_batches": 3}, scale={"workers": 2})
    assert "micro_batches: found 0" in refusal_of({"train": {"micro_batches": 0}})
    synced = {"train": {"sync_batch_norm": True}, "scale": {"workers": 2}}
    bare = {"name": "mlp", "batch_norm": False}
    assert "train.sync_batch_norm: 'bptt' on 'mlp' has no norm" in refusal(methods=["bptt"], network=bare, **synced)
    # Where the network has none, DSR's readout has one; what trains nothing is left alone.
    conversion = {"name": "conversion", "start": "ann"}
    found = expand(methods=["dsr", "ann", conversion], **synced, time_steps=2, seeds=0)
    assert [trial.train.sync_batch_norm for trial in found] == [True] * 3
    assert expand(methods=["dsr"], network=bare, **synced)


def refusal_of(changes: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        experiment_file.checked(Experiment, experiment().model_dump() | changes, "FILE")
    return str(caught.value)


def test_new_keys_of_the_recipe_leave_ids_alone_until_they_are_set():
    (plain,) = expand(methods=["ann"], seeds=0)
    assert not {"micro_batches", "lr_scaling", "sync_batch_norm"} & plain.model_dump()["train"].keys()
    for key, value in (("micro_batches", 2), ("micro_batches", "auto"), ("lr_scaling", {"reference": 128})):
        assert expand(methods=["ann"], seeds=0, train={key: value})[0].id != plain.id
    assert expand(methods=["ann"], seeds=0, sweep={"checkpoint_steps": 5})[0].id == plain.id


SEARCH = {
    "search": "random", "trials": 5,
    "space": {"train.lr": {"low": 1e-3, "high": 1.0, "log": True}, "settings.v_threshold": "default"},
}  # fmt: skip


def test_random_points_are_the_same_for_every_seed_and_every_call():
    trials = expand(sweep=SEARCH, methods=["bptt"], time_steps=[2])
    points = [[(t.train.lr, t.settings["v_threshold"]) for t in trials if t.seed == seed] for seed in (0, 1)]
    assert points[0] == points[1]
    assert len(set(points[0])) == 5
    assert [t.id for t in trials] == [t.id for t in expand(sweep=SEARCH, methods=["bptt"], time_steps=[2])]


def test_search_leaves_out_settings_that_a_method_lacks():
    ann = [t for t in expand(sweep=SEARCH) if t.method == "ann"]
    assert len(ann) == 2 * 5
    assert "v_threshold" not in ann[0].settings


def test_searched_key_that_nobody_has_is_refused():
    space = {"settings.v_tresh": {"low": 0.1, "high": 1.0}}
    assert "did you mean 'settings.v_threshold'" in refusal(sweep={"search": "random", "trials": 2, "space": space})


@unhurried
@given(low=st.floats(1e-6, 1.0), factor=st.floats(1.01, 1e6), log=st.booleans(), seed=st.integers(0, 99))
def test_drawn_values_stay_in_range(low, factor, log, seed):
    space = {"train.lr": {"low": low, "high": low * factor, "log": log}}
    sweep = {"search": "random", "trials": 3, "space": space, "seed": seed}
    for trial in expand(methods=["ann"], sweep=sweep):
        assert low <= trial.train.lr * (1 + 1e-9)
        assert trial.train.lr <= low * factor * (1 + 1e-9)
        assert math.isfinite(trial.train.lr)
