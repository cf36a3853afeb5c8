import io
from pathlib import Path

import pytest
import torch
from upath import UPath

from harness import checkpoint, storage
from harness.checkpoint import Damaged


def state(number: int) -> dict:
    return {"number": number, "weights": torch.full((50,), float(number)), "text": ["a", 1, None, (2, 3)]}


@pytest.fixture(params=["disk", "object store"])
def folder(request, tmp_path):
    place = tmp_path if request.param == "disk" else UPath(f"memory://{tmp_path.name}")
    for number in range(4):
        checkpoint.save(place / "trial", state(number))
    return place / "trial"


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(bytes(content))


def cut(file: Path, place: int) -> None:
    file.write_bytes(file.read_bytes()[:place])


def test_two_states_are_kept_and_the_last_is_taken(folder):
    assert storage.names(folder) == {"before_last.pt", "last.pt"}
    assert checkpoint.load(folder)["number"] == 3
    checkpoint.discard(folder)
    assert storage.names(folder) == set()
    assert not checkpoint.exists(folder)
    assert checkpoint.load(folder) is None


@pytest.mark.parametrize(
    ("damage", "place"), [(flip, 0), (flip, 200), (flip, -300), (flip, -30), (cut, 0), (cut, 200), (cut, -300)]
)
def test_damaged_state_is_noticed_and_the_one_before_it_taken(damage, place, folder, caplog):
    damage(folder / "last.pt", place)
    assert checkpoint.load(folder)["number"] == 2
    assert f"{folder / 'last.pt'}: damaged" in caplog.text
    assert f"going on from the state before it instead, {folder / 'before_last.pt'}" in caplog.text


def test_nothing_whole_begins_anew_with_a_warning(folder, caplog):
    for name in ("last.pt", "before_last.pt"):
        flip(folder / name, 100)
    assert checkpoint.load(folder) is None
    assert f"{folder}: no state is whole, so this trial begins anew" in caplog.text
    checkpoint.save(folder, state(7))
    assert checkpoint.load(folder)["number"] == 7


def test_crash_between_two_names_loses_nothing(folder):
    (folder / "last.pt").unlink()
    assert checkpoint.exists(folder)
    assert checkpoint.load(folder)["number"] == 2


def test_files_of_earlier_versions_are_read_and_ours_by_torch(tmp_path):
    buffer = io.BytesIO()
    torch.save(state(5), buffer)
    (tmp_path / "last.pt").write_bytes(buffer.getvalue())
    assert checkpoint.load(tmp_path)["number"] == 5
    (tmp_path / "weights.pt").write_bytes(buffer.getvalue())
    assert checkpoint.load_weights(tmp_path / "weights.pt")["number"] == 5
    checkpoint.save_weights(tmp_path, {"weight": torch.ones(3)})
    assert torch.equal(torch.load(tmp_path / "weights.pt", weights_only=True)["weight"], torch.ones(3))


def test_damaged_weights_are_an_error_that_names_the_file(tmp_path):
    checkpoint.save_weights(tmp_path, {"weight": torch.ones(3)})
    flip(tmp_path / "weights.pt", 300)
    with pytest.raises(Damaged, match=r"weights\.pt: damaged, its digest is another; copy it again"):
        checkpoint.load_weights(tmp_path / "weights.pt")
