from pathlib import Path

import pytest
import yaml

from harness import experiment_file
from harness.config import Experiment, schema, smoke
from harness.experiment_file import ConfigError

GOOD = {"name": "x", "dataset": "digits", "network": "mlp", "methods": ["ann", {"name": "dsr"}]}


def write(folder: Path, content: object) -> Path:
    file = folder / "x.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


def complaint(folder: Path, content: object, *overrides: str) -> str:
    file = write(folder, content)
    with pytest.raises(ConfigError) as caught:
        experiment_file.load(file, list(overrides))
    text = str(caught.value)
    assert "\n" not in text
    return text.replace(str(file), "FILE")


def test_short_forms_become_blocks(tmp_path):
    experiment = experiment_file.load(write(tmp_path, GOOD), ["seeds=3", "time_steps=5"])
    assert experiment.dataset.name == "digits"
    assert [method.name for method in experiment.methods] == ["ann", "dsr"]
    assert (experiment.seeds, experiment.time_steps) == ((3,), (5,))


def test_scientific_notation_is_a_number(tmp_path):
    text = yaml.safe_dump(GOOD) + "train: {lr: 1e-3}\nsweep: {search: random, trials: 2, space: {train.lr: default}}\n"
    assert experiment_file.load(write(tmp_path, text)).train.lr == 1e-3
    assert experiment_file.parse("1e-3") == 1e-3
    assert experiment_file.parse("-2E5") == -2e5


def test_unknown_key_names_path_and_nearest_spelling(tmp_path):
    text = complaint(tmp_path, {**GOOD, "train": {"epoch": 3}})
    assert text.startswith("FILE: train.epoch: unknown key; did you mean 'epochs'? (allowed: batch_size,")


def test_unknown_key_in_a_list_names_the_position(tmp_path):
    text = complaint(tmp_path, {**GOOD, "methods": ["ann", {"name": "dsr", "setings": {}}]})
    assert text.startswith("FILE: methods.1.setings: unknown key; did you mean 'settings'?")


def test_wrong_type_says_what_was_found_and_what_is_allowed(tmp_path):
    text = complaint(tmp_path, {**GOOD, "train": {"epochs": "ten"}})
    assert text.startswith("FILE: train.epochs: found 'ten'; input should be a valid integer")


def test_closed_set_lists_its_members(tmp_path):
    text = complaint(tmp_path, {**GOOD, "train": {"schedule": "cos"}})
    assert text == "FILE: train.schedule: found 'cos'; input should be 'cosine', 'step' or 'constant'"


def test_an_option_without_effect_is_refused(tmp_path):
    assert "'milestones' has no effect" in complaint(tmp_path, {**GOOD, "train": {"milestones": [3]}})
    assert "'momentum' has no effect" in complaint(tmp_path, {**GOOD, "train": {"optimizer": "adam", "momentum": 0.5}})
    assert "'trials' has no effect" in complaint(tmp_path, {**GOOD, "sweep": {"trials": 3}})
    assert "'asha' has no effect" in complaint(tmp_path, {**GOOD, "sweep": {"asha": {}}})
    without = {"latency_repeats": 0, "latency_batch_sizes": [2]}
    assert "'latency_batch_sizes' has no effect" in complaint(tmp_path, {**GOOD, "evaluation": without})


def test_key_that_was_renamed_is_refused_with_its_new_name(tmp_path):
    told = complaint(tmp_path, {**GOOD, "evaluation": {"latency_batch_size": 8}})
    assert "write 'latency_batch_sizes: [8]'" in told
    assert "'confidences' names one twice" in complaint(tmp_path, {**GOOD, "evaluation": {"confidences": [0.5, 0.5]}})


def test_missing_key_is_named(tmp_path):
    assert complaint(tmp_path, {"name": "x", "dataset": "digits", "network": "mlp"}) == (
        "FILE: methods: missing; it has to be given"
    )


def test_one_method_twice_needs_labels(tmp_path):
    assert "give one of them another 'label'" in complaint(tmp_path, {**GOOD, "methods": ["dsr", "dsr"]})


def test_broken_yaml_and_missing_file_are_one_line(tmp_path):
    assert "not valid YAML" in complaint(tmp_path, "name: [")
    assert "key 'name' stands twice" in complaint(tmp_path, "name: a\nname: b\n")
    assert "found list" in complaint(tmp_path, "- a\n")
    with pytest.raises(ConfigError, match="No such file"):
        experiment_file.load(tmp_path / "missing.yaml")


def test_override_enters_lists_by_position_and_by_name(tmp_path):
    file = write(tmp_path, GOOD)
    experiment = experiment_file.load(file, ["methods.dsr.settings.alpha=0.3", "methods.0.label=relu"])
    assert experiment.methods[1].settings == {"alpha": 0.3}
    assert experiment.methods[0].label == "relu"


def test_wrong_override_is_one_line(tmp_path):
    assert complaint(tmp_path, GOOD, "train.lr") == "--set train.lr: expected key.path=value"
    assert complaint(tmp_path, GOOD, "methods.bptt.label=x") == (
        "--set methods.bptt.label: no entry 'bptt' (there are: ann, dsr)"
    )
    assert complaint(tmp_path, GOOD, "name.y=1") == "--set name.y: 'name' is 'x', not a block of keys"
    assert "time_steps.0" in complaint(tmp_path, GOOD, "time_steps=[0]")


def test_schema_takes_what_the_reader_takes():
    import jsonschema

    validator = jsonschema.Draft202012Validator(schema())
    validator.validate(GOOD)
    for file in Path("configs").glob("*.yaml"):
        validator.validate(experiment_file.parse(file.read_text()))
    assert not validator.is_valid({**GOOD, "trian": {}})


def test_resolved_experiment_is_an_experiment_file(tmp_path):
    for given in (GOOD, *(experiment_file.parse(file.read_text()) for file in Path("configs").glob("*.yaml"))):
        experiment = experiment_file.load(write(tmp_path, given))
        assert experiment_file.load(write(tmp_path, experiment.model_dump(mode="json"))) == experiment


def test_smoke_keeps_every_method_and_shrinks_the_rest():
    content = {
        **GOOD,
        "methods": ["ann", {"name": "dsr", "grid": {"v_threshold": [1.0, 2.0]}, "train": {"lr": 0.2, "epochs": 9}}],
        "time_steps": [8, 2],
        "seeds": [5, 6],
        "train": {"schedule": "step", "milestones": [3], "epochs": 50, "lr": 0.3, "micro_batches": 8},
        "results": "s3://bucket/results/",
    }
    small = smoke(Experiment.model_validate(content))
    assert (small.time_steps, small.seeds, small.train.epochs, small.train.lr) == ((2,), (5,), 1, 0.3)
    assert small.methods[1].grid == {"v_threshold": [1.0]}
    assert small.methods[1].train == {"lr": 0.2}
    assert small.train.micro_batches == 1
    assert small.results == "s3://bucket/results/smoke"
