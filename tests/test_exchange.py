"""Results that leave their machine: reproduced from a record, bundled, merged."""

import json
import math
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

from harness import bundle, record
from harness.plan import Trial
from harness.reproduce import compared
from tests import records
from tests.experiments import EXPERIMENT

METHODS = ["ann", {"name": "conversion", "start": "ann"}]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The record of a converted network, trained once for all tests."""
    from harness import cli

    folder = tmp_path_factory.mktemp("trained")
    file = folder / "small.yaml"
    content = EXPERIMENT | {"methods": METHODS, "seeds": 0, "results": str(folder / "results")}
    file.write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["harness", "train", str(file), "--method", "conversion", "--quiet"])
        with pytest.raises(SystemExit):
            cli.main()
    found = [path for path in (folder / "results").rglob("*.json") if record.read(path).trial["method"] != "ann"]
    return found[0]


def named(made: record.Record) -> record.Record:
    """The record with a whole trial, under the id of that trial."""
    trial = Trial.model_validate(made.trial | {"network": {"name": "mlp"}})
    return made.model_copy(update={"trial": trial.model_dump(mode="json"), "id": trial.id})


@pytest.fixture
def results(tmp_path) -> Path:
    """Two records of one experiment."""
    folder = tmp_path / "there"
    for seed in range(2):
        record.write(named(records.made(seed=seed)), folder / "digits")
    return folder


def bundled(harness, results: Path, name: str = "bundle.zip") -> Path:
    target = results.parent / name
    assert harness("export", results, "-o", target)[0] == 0
    return target


def test_a_record_is_reproduced_to_the_bit_with_what_it_starts_from(harness, trained, tmp_path):
    code, out, _ = harness("reproduce", trained, "--into", tmp_path / "again", "--json")
    found = json.loads(out)
    assert (code, found["verdict"], found["difference"]) == (0, "identical", 0.0)
    assert len(record.paths([tmp_path / "again"])) == 2


def test_another_accuracy_than_recorded_is_a_failure_that_names_it(harness, trained, tmp_path):
    wrong = record.read(trained)
    wrong.accuracy[2] += 3
    file = record.write(wrong, tmp_path / "wrong")
    code, out, _ = harness("reproduce", file, "--into", tmp_path / "again", "--quiet")
    assert code == 1
    assert "-3.00" in out
    assert "verdict: different" in out
    assert harness("reproduce", file, "--into", tmp_path / "again", "--quiet", "--tolerance", "3.01")[0] == 0


def test_a_record_is_not_reproduced_over_itself(harness, trained):
    code, _, err = harness("reproduce", trained, "--into", trained.parent.parent)
    assert (code, err.count("\n")) == (2, 1)
    assert "give another folder" in err


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train": {"colour": "blue"}}, "trial.train.colour"),
        ({"settings": {"colour": "blue"}}, "trial.settings"),
        ({"method": "dsrr"}, "did you mean 'dsr'"),
        ({"network": {"name": "mlpp"}}, "did you mean 'mlp'"),
    ],
)
def test_what_is_not_known_here_is_named(harness, tmp_path, changed, said):
    made = records.made(**{"settings": None, **changed})
    code, _, err = harness("reproduce", record.write(made, tmp_path), "--into", tmp_path / "again")
    assert (code, err.count("\n")) == (2, 1)
    assert said in err


def test_losses_that_are_no_numbers_are_equal():
    epochs = [records.epoch(1), records.epoch(2).model_copy(update={"train_loss": math.nan})]
    one, other = records.made(history=epochs), records.made(history=epochs)
    assert compared(one, other).verdict == "identical"
    changed = other.model_copy(update={"history": [epochs[0], records.epoch(2)]})
    assert (compared(one, changed).first_other_epoch, compared(one, changed).verdict) == (2, "same accuracy")


def test_other_surroundings_are_listed():
    here = records.made(machine={"cpu": "Other CPU"}, versions={"torch": "3.0"}, commit="f" * 40, dirty=True)
    found = {setting.what: (setting.recorded, setting.here) for setting in compared(records.made(), here).surroundings}
    assert found == {
        "commit": ("0123456", "fffffff with uncommitted changes"),
        "CPU": ("Test CPU", "Other CPU"),
        "torch": ("none", "3.0"),
    }


def test_another_outcome_is_never_within_the_tolerance():
    comparison = compared(records.made(), records.broken())
    assert (comparison.verdict, comparison.is_within(100)) == ("different", False)


def test_a_bundle_is_the_same_every_time_and_its_checksums_hold(harness, results, tmp_path):
    one, other = bundled(harness, results), bundled(harness, results, "again.zip")
    assert one.read_bytes() == other.read_bytes()
    with zipfile.ZipFile(one) as archive:
        archive.extractall(tmp_path / "open")
    names = {path.name for path in (tmp_path / "open").iterdir()}
    assert {"table.md", "table.csv", "table.tex", "table.html", "plots", "environments.json", "README.md"} <= names
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "open", check=True)
    assert json.loads((tmp_path / "open" / "environments.json").read_text())[0]["records"] == 2


def test_a_bundle_holds_records_byte_for_byte_and_merges_into_an_empty_folder(harness, results, tmp_path):
    code, out, _ = harness("import", bundled(harness, results), "--into", tmp_path / "here")
    assert (code, out) == (0, "2 records imported, 0 were there already\n")
    for file in record.paths([results]):
        assert (tmp_path / "here" / "digits" / file.name).read_bytes() == file.read_bytes()
    assert "dsr" in (tmp_path / "here" / "digits" / "table.md").read_text()


def test_importing_twice_changes_nothing(harness, results, tmp_path):
    harness("import", results, "--into", tmp_path / "here")
    assert harness("import", results, "--into", tmp_path / "here")[1].startswith("0 records imported, 2 were there")


def test_another_record_of_a_trial_is_refused_and_nothing_is_imported(harness, results, tmp_path):
    first, second = record.paths([results])
    mine = record.read(first)
    record.write(mine.model_copy(update={"wall_seconds": 1.0}), tmp_path / "here" / "digits")
    code, _, err = harness("import", results, "--into", tmp_path / "here")
    assert (code, err.count("\n")) == (2, 1)
    assert mine.id in err
    assert [file.name for file in record.paths([tmp_path / "here"])] == [first.name]
    code, out, _ = harness("import", results, "--into", tmp_path / "here", "--skip-duplicates")
    assert out == "1 records imported, 0 were there already, 1 left out\n"
    assert record.read(tmp_path / "here" / "digits" / first.name).wall_seconds == 1.0
    assert (tmp_path / "here" / "digits" / second.name).exists()


def test_records_of_a_dirty_tree_and_of_no_commit_are_named(harness, tmp_path):
    dirty, unknown = named(records.made(dirty=True)), named(records.made(seed=1, commit=None))
    files = [record.write(each, tmp_path / "there") for each in (dirty, unknown)]
    _, out, _ = harness("import", *files, "--into", tmp_path / "here")
    assert f"with uncommitted changes, marked + in tables: {dirty.id}" in out
    assert f"of no known commit: {unknown.id}" in out
    assert "+" in (tmp_path / "here" / "digits" / "table.md").read_text()


def rewritten(source: Path, change) -> Path:
    """A bundle whose members were changed without new checksums."""
    target = source.with_name("changed.zip")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        members = {name: old.read(name) for name in old.namelist()}
        change(members)
        for name, content in members.items():
            new.writestr(name, content)
    return target


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda members: members.update({"table.md": b"better"}), "damaged or changed"),
        (lambda members: members.pop("table.md"), "damaged or changed"),
        (lambda members: members.pop("SHA256SUMS"), "not a bundle"),
    ],
)
def test_a_changed_bundle_is_refused(harness, results, tmp_path, change, said):
    code, _, err = harness("import", rewritten(bundled(harness, results), change), "--into", tmp_path / "here")
    assert (code, err.count("\n")) == (2, 1)
    assert said in err
    assert not (tmp_path / "here").exists()


def test_a_bundle_that_is_cut_off_is_refused(harness, results, tmp_path):
    whole = bundled(harness, results)
    cut = whole.with_name("cut.zip")
    cut.write_bytes(whole.read_bytes()[:-100])
    code, _, err = harness("import", cut, "--into", tmp_path / "here")
    assert (code, "not a whole ZIP file" in err) == (2, True)


@pytest.mark.parametrize("name", ["../outside", "a/b", "", ".hidden"])
def test_a_record_cannot_choose_a_place_outside(tmp_path, name):
    made = named(records.made(experiment=name))
    file = tmp_path / f"{made.id}.json"
    file.write_text(made.model_dump_json(exclude_none=True))
    with pytest.raises(ValueError, match="experiment: "):
        bundle.merge([file], tmp_path / "here")


def test_a_record_changed_by_hand_does_not_keep_its_id(harness, results, tmp_path):
    file = record.paths([results])[0]
    content = json.loads(file.read_text())
    content["trial"]["seed"] = 9
    file.write_text(json.dumps(content))
    code, _, err = harness("import", results, "--into", tmp_path / "here")
    assert (code, "changed by hand" in err) == (2, True)


def test_two_records_of_one_trial_make_no_bundle(harness, results, tmp_path):
    file = record.paths([results])[0]
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(file, other)
    assert harness("export", file, other, "-o", tmp_path / "same.zip")[0] == 0
    record.write(record.read(file).model_copy(update={"wall_seconds": 1.0}), other)
    code, _, err = harness("export", file, other, "-o", tmp_path / "two.zip")
    assert (code, "another record" in err) == (2, True)


def test_a_bundle_is_a_zip_file(harness, results, tmp_path):
    code, _, err = harness("export", results, "-o", tmp_path / "bundle.tar")
    assert (code, ".zip" in err) == (2, True)
