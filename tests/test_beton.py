"""FFCV's files, written and read without FFCV."""

from pathlib import Path

import numpy as np
import pytest

from harness.data import beton

PAGE = 1 << 21
SIZES = [0, 1, 7, PAGE, 3, PAGE - 5, 100_000, PAGE // 2, PAGE // 2 + 1, 12]


def samples() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, size, dtype=np.uint8) for size in SIZES]


def write(file: Path, *, marks: tuple[int, ...] = (), stop: int | None = None, first: int = 0) -> None:
    """Write the samples, up to `stop` without finishing; goes on behind `first`."""
    with beton.Writer(file, beton.BYTES, len(SIZES), PAGE) as writer:
        assert writer.done == first
        for label, payload in list(enumerate(samples()))[first:stop]:
            writer.add(payload, label)
            if label + 1 in marks:
                writer.mark(f"note {label + 1}")
        if stop is None:
            writer.finish()


def test_what_is_read_is_what_was_written(tmp_path):
    write(tmp_path / "a.beton")
    found = beton.read(tmp_path / "a.beton")
    assert found.labels.tolist() == list(range(len(SIZES)))
    assert [found.payload(index).tobytes() for index in range(len(SIZES))] == [each.tobytes() for each in samples()]


def test_no_sample_crosses_the_border_of_a_page(tmp_path):
    write(tmp_path / "a.beton")
    found = beton.read(tmp_path / "a.beton")
    for ptr, size in zip(found.about["ptr"].tolist(), SIZES, strict=True):
        assert ptr % beton.ALIGNMENT == 0
        assert ptr // PAGE == (ptr + max(size, 1) - 1) // PAGE


@pytest.mark.parametrize("stop", range(len(SIZES) + 1))
def test_writer_goes_on_behind_the_last_mark_to_the_same_bytes(stop, tmp_path):
    marks = (2, 5, 8, 10)
    write(tmp_path / "whole.beton")
    write(tmp_path / "a.beton", marks=marks, stop=stop)
    kept = max((mark for mark in marks if mark <= stop), default=0)
    assert beton.marked(tmp_path / "a.beton", beton.BYTES) == kept
    with beton.Writer(tmp_path / "a.beton", beton.BYTES, len(SIZES), PAGE) as writer:
        assert writer.notes == [f"note {mark}" for mark in marks if mark <= stop]
    write(tmp_path / "a.beton", marks=marks, first=kept)
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "whole.beton").read_bytes()


@pytest.mark.parametrize("lost", [1, 10, 200])
def test_mark_that_was_not_written_whole_does_not_count(lost, tmp_path):
    write(tmp_path / "a.beton", marks=(2, 5), stop=6)
    journal = beton.journal(tmp_path / "a.beton")
    journal.write_bytes(journal.read_bytes()[:-lost])
    write(tmp_path / "a.beton", first=2)
    write(tmp_path / "whole.beton")
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "whole.beton").read_bytes()


def test_mark_of_more_than_the_file_holds_does_not_count(tmp_path):
    write(tmp_path / "a.beton", marks=(2, 5), stop=5)
    with (tmp_path / "a.beton").open("r+b") as file:
        file.truncate(PAGE)
    write(tmp_path / "a.beton", first=2)


def test_mark_of_another_number_of_samples_does_not_count(tmp_path):
    write(tmp_path / "a.beton", marks=(2, 5), stop=5)
    with beton.Writer(tmp_path / "a.beton", beton.BYTES, len(SIZES) + 1, PAGE) as writer:
        assert writer.done == 0


def test_unfinished_file_is_refused(tmp_path):
    write(tmp_path / "a.beton", marks=(2, 5), stop=6)
    with pytest.raises(ValueError, match=r"a\.beton is not a finished \.beton file"):
        beton.read(tmp_path / "a.beton")
    with (
        pytest.raises(ValueError, match=r"holds 5 of 10 samples"),
        beton.Writer(tmp_path / "a.beton", beton.BYTES, len(SIZES), PAGE) as writer,
    ):
        writer.finish()


def test_sample_larger_than_a_page_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match=rf"sample 0 takes {PAGE + 1} bytes, more than a page of a\.beton"),
        beton.Writer(tmp_path / "a.beton", beton.BYTES, 1, PAGE) as writer,
    ):
        writer.add(np.zeros(PAGE + 1, np.uint8), 0)


@pytest.mark.parametrize("size", [1, 64, 3072, 300_000, PAGE])
@pytest.mark.parametrize("number", [1, 6, 40])
def test_size_of_a_file_is_foreseen(size, number, tmp_path):
    field = beton.array((size,))
    with beton.Writer(tmp_path / "a.beton", field, number, PAGE) as writer:
        for label in range(number):
            writer.add(np.zeros(size, np.uint8), label)
        writer.finish()
    written = (tmp_path / "a.beton").stat().st_size
    foreseen = beton.file_bytes(field, number, size, PAGE)
    assert written <= foreseen <= written + 2 * PAGE
