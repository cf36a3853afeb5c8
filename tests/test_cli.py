"""The commands as a user types them; those that need Ray are in test_sweep.py."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from harness import record
from harness.data import download
from tests.experiments import EXPERIMENT


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT | {"results": str(tmp_path / "results")}))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "sweep",
        "train",
        "check",
        "evaluate",
        "table",
        "plot",
        "report",
        "list",
        "validate",
        "schema",
        "doctor",
        "track",
        "reproduce",
        "export",
        "import",
        "data",
        "submit",
        "status",
        "stop",
    ],
)
def test_every_command_has_help(harness, name):
    code, out, _ = harness(*name.split(), "--help")
    assert code == 0
    assert name in out


def test_python_dash_m_is_the_command():
    result = subprocess.run([sys.executable, "-m", "harness", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("snn-harness ")


def test_validate_prints_every_default_and_the_plan(harness, file):
    code, out, _ = harness("validate", file, "--set", "seeds=7")
    assert code == 0
    assert "label_smoothing: 0.0" in out
    assert "2 trials, 0 of them measured" in out
    code, out, _ = harness("validate", file, "--json")
    assert [row["method"] for row in json.loads(out)["plan"]["trials"]] == ["ann", "ann", "bptt", "bptt"]


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("train.epoch=3", "train.epoch: unknown key; did you mean 'epochs'?"),
        (
            "methods.bptt.settings.surogate=arctan",
            "methods.1.settings: surogate: unknown key; did you mean 'surrogate'?",
        ),
        ("methods.bptt.settings.surrogate=arc", "found 'arc'; input should be 'rectangle', 'triangle'"),
        ("network=mpl", "methods.0.network: no network 'mpl'; did you mean 'mlp'?"),
        ("network.hiden=[3]", "methods.0.network: hiden: unknown key; did you mean 'hidden'?"),
        ("dataset=digit", "dataset: no dataset 'digit'; did you mean 'digits'?"),
        ("dataset.size=3", "dataset: dataset 'digits' takes no options"),
        ("methods.0.name=ide", "methods.0: 'ide' on network 'mlp', Digits: "),
        ("seeds=[]", "seeds: found []"),
    ],
)
@pytest.mark.parametrize("command", ["validate", "sweep", "train"])
def test_wrong_file_is_one_line_and_exit_code_2(harness, file, command, override, complaint):
    code, out, err = harness(command, file, "--set", override)
    assert code == 2
    assert not out
    assert err.count("\n") == 1
    assert err.startswith(f"harness: {file}: ")
    assert complaint in err


def test_missing_file_is_one_line_and_exit_code_2(harness, tmp_path):
    for command in (["validate"], ["table"], ["plot"], ["track"], ["evaluate", "--time-steps", "1"]):
        code, _, err = harness(command[0], tmp_path / "none.yaml", *command[1:])
        assert code == 2
        assert "none.yaml" in err
        assert err.count("\n") == 1


def test_lists_name_what_there_is(harness):
    for kind, name in {"methods": "bptt", "datasets": "digits", "networks": "64C5s (F64C5)"}.items():
        code, out, _ = harness("list", kind, "--json")
        assert code == 0
        assert name in [row["name"] for row in json.loads(out)]
    assert any("digits.yaml" in row["name"] for row in json.loads(harness("list", "configs", "--json")[1]))


def test_list_of_settings_has_default_range_and_source(harness):
    code, out, _ = harness("list", "methods", "--method", "dsr", "--json")
    assert code == 0
    settings = {row["setting"]: row for row in json.loads(out)}
    assert settings["v_threshold"]["allowed"] == "> 0"
    assert "0.1" in settings["v_threshold"]["search"]
    assert "2205.00459" in settings["v_threshold"]["source"]
    code, _, err = harness("list", "methods", "--method", "drs")
    assert code == 2
    assert "did you mean 'dsr'" in err


def test_schema_is_a_json_schema(harness):
    code, out, _ = harness("schema")
    assert code == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(out))


def test_doctor_says_one_line_for_each_thing(harness):
    code, out, _ = harness("doctor", "--json")
    names = [check["name"] for check in json.loads(out)]
    assert names[:4] == ["torch", "ffcv", "ray", "mlflow"]
    assert {"tonic", "dataset digits", "dataset mnist", "disk", "threads"} <= set(names)
    assert code == int(any(check["state"] == "missing" for check in json.loads(out)))
    assert "cores" in harness("doctor")[1]


def test_train_evaluate_and_table_work_together(harness, file, tmp_path):
    code, out, err = harness("train", file, "--method", "bptt", "--seed", 1)
    assert code == 0, err
    assert out.startswith("bptt T=2 v_threshold=1 seed=1: ")
    assert "epoch 1: loss" in err
    (result,) = record.read_all([tmp_path / "results"])

    code, out, err = harness(
        "evaluate", record.path(tmp_path / "results" / "small", result.id), "--time-steps", "1,2,4", "--json"
    )
    assert code == 0, err
    found = json.loads(out)["accuracy"]
    assert found["2"] == pytest.approx(result.accuracy[2])
    assert set(found) == {"1", "2", "4"}

    for format, sign in {"md": "|", "csv": ",", "latex": "\\toprule", "html": "<table", "json": "{"}.items():
        code, out, err = harness("table", tmp_path / "results", "--format", format)
        assert code == 0, err
        assert sign in out


@pytest.fixture
def staged(tmp_path) -> Path:
    path = tmp_path / "staged.yaml"
    methods = [
        {"name": "conversion", "start": "qcfs", "time_steps": [2, 4]},
        {"name": "ann", "label": "qcfs", "settings": {"activation": "qcfs"}},
    ]
    path.write_text(yaml.safe_dump(EXPERIMENT | {"results": str(tmp_path / "results"), "methods": methods}))
    return path


def test_train_runs_first_what_a_trial_starts_from(harness, staged, tmp_path):
    code, out, _ = harness("validate", staged, "--set", "seeds=0")
    assert code == 0
    assert "starts from" in out
    assert out.count("qcfs T=1 seed 0 (") == 2
    code, out, err = harness("train", staged, "--method", "conversion", "--time-steps", 4, "--seed", 1)
    assert code == 0, err
    assert "starts from qcfs T=1 seed 1 (" in err
    assert out.startswith("conversion T=4 seed=1: ")
    found = {result.trial["label"]: result for result in record.read_all([tmp_path / "results"])}
    assert {label: len(result.history) for label, result in found.items()} == {"qcfs": 2, "conversion": 0}

    # A second one starts from what there is, unless its weights are gone.
    (weights,) = tmp_path.rglob(f"{found['qcfs'].id}/weights.pt")
    weights.rename(weights.with_suffix(".gone"))
    code, out, err = harness("train", staged, "--method", "conversion", "--time-steps", 2, "--seed", 1)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"harness: {weights}: no weights of 'qcfs' to start from; copy them here")
    weights.with_suffix(".gone").rename(weights)
    code, out, err = harness("train", staged, "--method", "conversion", "--time-steps", 2, "--seed", 1)
    assert code == 0, err
    assert "runs first" not in err

    code, out, err = harness("table", tmp_path / "results")
    assert "conversion starts from the weights of qcfs T=1" in out
    file = record.path(tmp_path / "results" / "small", found["conversion"].id)
    code, out, err = harness("evaluate", file, "--time-steps", "4,16", "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"]["4"] == pytest.approx(found["conversion"].accuracy[4])


def test_train_names_what_there_is_when_nothing_fits(harness, file):
    code, _, err = harness("train", file, "--method", "bptt", "--time-steps", 99)
    assert code == 2
    assert "no trial with label=bptt, time_steps=99 (there are: methods ann, bptt; T [1, 2]; seeds [0, 1])" in err


def test_smoke_runs_one_epoch_of_few_batches_elsewhere(harness, file, tmp_path):
    code, _, err = harness("train", file, "--smoke", "--quiet")
    assert code == 0
    assert not err
    (result,) = record.read_all([tmp_path / "results" / "smoke"])
    assert len(result.history) == 1
    assert result.trial["train"]["limit_batches"] == 2


def test_smoke_without_the_data_uses_noise_in_its_shape_and_says_so(harness, file, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    given = ("--set", "dataset=nmnist", "--set", "time_steps=[20,40]", "--method", "bptt")
    code, _, err = harness("train", file, "--smoke", *given)
    assert code == 0, err
    assert "N-MNIST is not here: noise in its shape is used, and accuracies mean nothing\n" in err
    (result,) = record.read_all([tmp_path / "results" / "smoke"])
    assert result.data["title"] == "noise in the shape of N-MNIST"
    assert (result.trial["dataset"]["shape"], result.trial["dataset"]["temporal"]) == ([2, 34, 34], True)
    assert result.trial["time_steps"] == 4

    def offline(*_, **__) -> None:
        raise download.DownloadError("no network")

    monkeypatch.setattr(download, "fetch", offline)
    code, _, err = harness("train", file, *given)
    assert code == 1
    assert "dataset: nmnist is not here and could not be downloaded (no network): set HARNESS_DATA" in err


def test_training_on_everything_chooses_by_the_test_split_when_told_to(harness, file, tmp_path):
    given = ("--set", "dataset.validation=0", "--set", "evaluation.selection=best_test", "--method", "bptt")
    code, _, err = harness("train", file, *given)
    assert code == 0, err
    assert ", test " in err
    assert "validation" not in err
    (result,) = record.read_all([tmp_path / "results"])
    assert result.validation_accuracy is None
    assert result.data["sizes"] == {"train": 1437, "validation": 0, "test": 360}


def test_wrong_time_steps_are_refused(harness, file):
    for steps in ("1,x", "0"):
        assert harness("evaluate", file, "--time-steps", steps)[0] == 2
