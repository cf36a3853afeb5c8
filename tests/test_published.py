from pathlib import Path

import pytest
import yaml

from harness import published

FOLDER = Path(__file__).parent.parent / "results" / "published"
ROW = {
    "dataset": "MNIST", "network": "CNN", "method": "DSR", "time_steps": 5, "accuracy": 99.0, "selection": "best_test",
    "evidence": "first-hand", "source": "arXiv:2205.00459",
}  # fmt: skip


def written(folder: Path, **changes) -> Path:
    file = folder / "paper.yaml"
    file.write_text(yaml.safe_dump({"rows": [{**ROW, **changes}]}))
    return file


def test_a_missing_folder_has_no_rows(tmp_path):
    assert published.read(tmp_path / "nowhere") == []


def test_unverified_rows_are_left_out_unless_asked_for(tmp_path):
    file = written(tmp_path, evidence="unverified: from memory")
    assert published.read(file) == []
    assert len(published.read(tmp_path, unverified=True)) == 1


@pytest.mark.parametrize("changes", [{"colour": "red"}, {"evidence": "somewhere"}, {"accuracy": 101.0}])
def test_a_wrong_row_is_refused_by_file(tmp_path, changes):
    with pytest.raises(ValueError, match=r"paper\.yaml: rows\.0"):
        published.read(written(tmp_path, **changes))


def test_a_file_without_rows_is_refused(tmp_path):
    (tmp_path / "paper.yaml").write_text("hello")
    with pytest.raises(ValueError, match="expected a mapping with the key 'rows'"):
        published.read(tmp_path)


def test_our_files_can_be_read_and_hold_no_row_twice():
    rows = published.read(FOLDER, unverified=True)
    assert len(rows) == len(set(rows)) > 90


def test_rows_are_found_by_the_dataset_s_title():
    rows = published.of_dataset(published.read(FOLDER), "Fashion-MNIST")
    assert {row.dataset for row in rows} == {"Fashion-MNIST"}


@pytest.mark.parametrize(("printed", "ours"), [("PreAct-ResNet-18", "preact_resnet18"), ("VGG-11", "vgg11")])
def test_names_match_without_case_and_punctuation(printed, ours):
    assert published.is_same_name(printed, ours)


@pytest.mark.parametrize(("printed", "ours", "same"), [("OTTT_A", "ottt", True), ("STBP-tdBN", "bptt", False)])
def test_a_variant_is_of_its_method(printed, ours, same):
    assert published.is_same_method(published.Published(**{**ROW, "method": printed}), ours) is same
