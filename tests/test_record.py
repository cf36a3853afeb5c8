import json
import math
import os

import pytest

from harness import record
from harness.patience import GaveUp
from harness.record import Record


def made(name: str = "0123456789ab", **changes) -> Record:
    return Record(id=name, experiment="x", trial={"seed": 0}, outcome="done", selection="last", **changes)


def test_record_survives_writing_and_reading(tmp_path):
    written = made(accuracy={1: 50.0, 2: 75.5}, cost=record.Cost(parameters=3))
    assert record.read(record.write(written, tmp_path)) == written


def test_what_was_not_measured_is_absent(tmp_path):
    content = json.loads(record.write(made(), tmp_path).read_text())
    assert "wall_seconds" not in content
    assert "throughput" not in content["cost"]


def test_loss_that_is_no_number_survives(tmp_path):
    epoch = record.Epoch(epoch=0, train_loss=float("nan"), train_accuracy=10.0, lr=0.1, seconds=1.0)
    read = record.read(record.write(made(history=[epoch], test_loss=float("inf")), tmp_path))
    assert math.isnan(read.history[0].train_loss)
    assert read.test_loss == float("inf")


def test_failed_write_leaves_the_old_record_and_no_rubbish(tmp_path, monkeypatch):
    file = record.write(made(), tmp_path)
    before = file.read_text()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setenv("HARNESS_PATIENCE_SECONDS", "0")
    with pytest.raises(GaveUp, match="No space left on device, for 0 s; free some space there"):
        record.write(made(command="other"), tmp_path)
    assert file.read_text() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema_version": 1}'])
def test_file_that_is_no_record_is_named(tmp_path, content):
    file = tmp_path / "0123456789ab.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"0123456789ab\.json: "):
        record.read(file)


def test_newer_schema_is_refused_and_unknown_keys_are_not(tmp_path):
    file = record.write(made(), tmp_path)
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"from_the_future": 1}))
    assert record.read(file) == made()
    file.write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(ValueError, match="schema version 99, this harness reads up to"):
        record.read(file)


def test_read_all_takes_files_and_folders_and_passes_over_other_json(tmp_path):
    record.write(made(), tmp_path / "a")
    file = record.write(made("ba9876543210"), tmp_path / "b")
    (tmp_path / "a" / "benchmark.json").write_text("{}")
    assert [result.id for result in record.read_all([tmp_path / "a", file])] == ["0123456789ab", "ba9876543210"]
    with pytest.raises(ValueError, match="no such file"):
        list(record.read_all([tmp_path / "missing"]))
