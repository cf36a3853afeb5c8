import json
import random

import pytest

from benchmarks import synthetic_records
from harness import cells, columns, extract, record, sheet, tables
from tests import records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    synthetic_records.write(folder, 60)
    errors = {"representation_error": {"1": [0.5, 0.25], "2": [0.4, 0.15]}}
    for made in [*records.sweep(), records.made("dsr", time_steps=2, convergence=errors, settings={"tau": 3.0})]:
        record.write(made, folder / "sweep")
    return folder


@pytest.mark.parametrize("format", ["md", "csv", "json", "latex", "html"])
def test_a_table_of_extracts_is_that_of_whole_records(folder, format):
    whole, lean = list(record.read_all([folder])), extract.read_all([folder])
    assert tables.render(lean, format, anytime=True) == tables.render(whole, format, anytime=True)


def test_every_figure_of_a_table_is_that_of_whole_records(folder):
    found = [sheet.sheets(some) for some in (record.read_all([folder]), extract.read_all([folder]))]
    whole, lean = (tables.written(sheets, "md", measures=columns.NAMES) for sheets in found)
    assert lean == whole
    assert "0.200 representation error" in lean


def test_what_tables_do_not_read_is_not_kept(folder):
    found = extract.read_all([folder])
    assert all(len(each.history) <= 1 for each in found)
    assert not any(hasattr(each, "versions") for each in found)


def test_records_of_the_first_schema_are_read(tmp_path):
    content = json.loads(records.made(cost=records.measured()).model_dump_json(exclude_none=True))
    (tmp_path / "0123456789ab.json").write_text(json.dumps(content | {"schema_version": 1}))
    (cell,) = cells.of(extract.read_all([tmp_path]))
    assert (cell.synops, cell.operations) == (1.25e6, None)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: "[]",
        lambda text: text[: len(text) // 2],
        lambda text: "{}",
        lambda text: text.replace('"schema_version": 2', '"schema_version": 99'),
        lambda text: text.replace('"outcome": "done"', '"outcome": "won"'),
        lambda text: text.replace('"batch_size": 1', '"batch_size": "many"'),
    ],
)
def test_a_broken_record_gives_the_same_line_as_reading_it_whole(tmp_path, change):
    file = record.write(records.made(cost=records.measured()), tmp_path)
    broken = change(file.read_text())
    assert broken != file.read_text()
    file.write_text(broken)
    with pytest.raises(ValueError) as whole:  # noqa: PT011
        record.read(file)
    with pytest.raises(ValueError) as lean:  # noqa: PT011
        extract.read_all([tmp_path])
    assert str(lean.value) == str(whole.value)
    assert str(file) in str(lean.value)


def test_what_only_the_slower_reader_takes_is_read_by_it(tmp_path):
    file = record.write(records.made(), tmp_path)
    file.write_text(file.read_text().replace('"label": "dsr"', '"label": "dsr \\ud800"'))
    (found,) = extract.read_all([tmp_path])
    assert found.trial["label"] == "dsr \ud800"


def test_files_come_in_the_order_of_their_paths(tmp_path):
    made = records.sweep()[:12]
    for number, each in enumerate(random.Random(0).sample(made, len(made))):
        record.write(each, tmp_path / ("a" if number % 2 else "a-b") / "deep"[: number % 5])
    files = record.paths([tmp_path])
    assert files == sorted(files)
    assert len(files) == 12


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(ValueError, match="no such file or folder"):
        extract.read_all([tmp_path / "nowhere"])
