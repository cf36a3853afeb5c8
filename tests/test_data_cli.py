"""`harness data …` as a user types it; `stage` on a cluster is in test_stage.py."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from harness.data import contact, prepare, prepared
from tests import fake_data
from tests.experiments import EXPERIMENT


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    for name in ("HARNESS_DATA", "HARNESS_STAGE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def digits() -> prepared.Prepared:
    return prepare.prepare("digits", beton=True)


@pytest.mark.parametrize("command", ["prepare", "verify", "info", "show", "stage"])
def test_every_command_has_help_with_an_example(harness, command):
    code, out, _ = harness("data", command, "--help")
    assert code == 0
    assert f"harness data {command} " in " ".join(out.split())


def test_prepare_prints_the_folder_and_says_what_is_there(harness):
    code, out, err = harness("data", "prepare", "digits")
    assert code == 0, err
    assert Path(out.strip()) == digits().folder
    assert "Digits: 1437 train, 360 test samples, 321.0 kB in 6 files" in err
    code, out, err = harness("data", "prepare", "digits", "--json", "--quiet")
    assert json.loads(out)["fingerprint"] == digits().fingerprint
    assert err == ""


def test_prepare_takes_options_of_the_dataset(harness, tmp_path):
    folder = fake_data.image_folder(tmp_path / "images")
    code, out, err = harness("data", "prepare", "image_folder", "--set", f"path={folder}", "--set", "size=6", "--json")
    assert code == 0, err
    assert json.loads(out)["options"]["path"] == str(folder)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "experiment.yaml"
    block = {"name": "noise", "train": 20, "test": 10, "shape": [3, 4, 4], "validation": 0.2}
    path.write_text(yaml.safe_dump(EXPERIMENT | {"dataset": block, "results": str(tmp_path / "results")}))
    return path


def test_prepare_takes_the_dataset_of_an_experiment(harness, file):
    code, out, err = harness("data", "prepare", "--config", file, "--json")
    assert code == 0, err
    assert json.loads(out)["sizes"] == {"train": 20, "test": 10}
    code, out, err = harness("data", "prepare", "noise", "--config", file, "--set", "test=5", "--json")
    assert code == 0, err
    assert json.loads(out)["sizes"] == {"train": 20, "test": 5}
    code, _, err = harness("data", "prepare", "digits", "--config", file)
    assert (code, err) == (2, f"harness: {file}: its dataset is 'noise', not 'digits'\n")


@pytest.mark.parametrize("command", ["prepare", "verify", "info", "show", "stage --to x"])
@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["digit"], "no dataset 'digit'; did you mean 'digits'? (there are: "),
        ([], "give the name of a dataset (`harness list datasets`), or --config FILE"),
        (["digits", "--set", "size=3"], "dataset 'digits' takes no options (given: size)"),
        (["noise", "--set", "trian=3"], "dataset 'noise': trian: "),
        (["digits", "--set", "augment.flip=true"], "--set augment: no effect here (allowed: options of the dataset, "),
        (["digits", "--set", "store.quality=50"], "store: no effect on Digits"),
        (["digits", "--set", "store.quality=500"], "dataset 'digits': store.quality: found 500; input should be less"),
        (["digits", "--config", "none.yaml"], "none.yaml: No such file or directory"),
    ],
)
def test_wrong_request_is_one_line_and_exit_code_2(harness, command, given, complaint):
    verb, *more = command.split()
    code, out, err = harness("data", verb, *given, *more)
    assert (code, out) == (2, "")
    assert err.startswith(f"harness: {complaint}")
    assert err.count("\n") == 1


def test_missing_data_are_one_line(harness, tmp_path):
    code, _, err = harness("data", "prepare", "imagenet")
    assert code == 2
    assert err.count("\n") == 1
    assert "neither train/<wnid>/ nor ILSVRC2012_img_train.tar in " in err
    assert "set HARNESS_DATA" in err


def test_failed_download_is_one_line_and_exit_code_1(harness, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    code, _, err = harness("data", "prepare", "cifar10")
    assert code == 1
    assert err.count("\n") == 1
    assert err.startswith("harness: cifar10 is not here and could not be downloaded (https://www.cs.toronto.edu/")


def test_cache_that_cannot_be_written_is_one_line(harness, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file"))
    code, _, err = harness("data", "prepare", "digits")
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith(
        f"harness: cannot write into {tmp_path / 'file' / 'prepared'} (Not a directory): set HARNESS_"
    )


def test_interrupted_preparation_says_how_to_go_on(harness, monkeypatch):
    def interrupt(*_, **__) -> None:
        os.kill(os.getpid(), 15)

    monkeypatch.setattr(prepare, "encode", interrupt)
    code, _, err = harness("data", "prepare", "digits")
    assert code == 143
    assert err == "harness: stopped by SIGTERM; what was done is saved. Resume with: harness data prepare digits\n"


def test_verify_finds_every_kind_of_damage(harness):
    folder = digits().folder
    code, out, _ = harness("data", "verify", "digits")
    assert (code, out) == (0, f"{folder}: every file is as it was written\n")
    content = bytearray((folder / "train.beton").read_bytes())
    content[5000] ^= 1
    (folder / "train.beton").write_bytes(content)
    os.truncate(folder / "test.beton", 100)
    (folder / "test.labels.npy").unlink()
    code, out, err = harness("data", "verify", "digits")
    assert code == 1
    assert out.splitlines() == [
        f"{folder / 'test.beton'} has 100 bytes instead of 39552",
        f"{folder / 'test.labels.npy'} is missing",
        f"{folder / 'train.beton'} does not have the checksum it was written with",
    ]
    assert err.endswith("to write it anew, delete the folder, then: harness data prepare digits\n")
    code, out, _ = harness("data", "verify", "digits", "--json")
    assert code == 1
    assert len(json.loads(out)[str(folder)]) == 3
    (folder / "manifest.json").unlink()
    code, out, _ = harness("data", "verify", "digits")
    assert (code, out) == (1, f"no manifest.json in {folder}\n")


def test_verify_of_what_is_not_prepared_says_how(harness):
    code, _, err = harness("data", "verify", "noise", "--set", "train=7")
    assert (code, err) == (2, "harness: noise is not prepared: harness data prepare noise --set train=7\n")


def test_info_says_what_there_is_and_where(harness, tmp_path, monkeypatch):
    code, out, _ = harness("data", "info", "digits", "--json")
    before = json.loads(out)
    assert code == 0
    assert (before["prepared"], before["raw"], before["samples"]) == (None, "elsewhere", {"train": 1437, "test": 360})
    found = digits()
    after = json.loads(harness("data", "info", "digits", "--json")[1])
    assert after["prepared"]["folder"] == str(found.folder)
    assert after["prepared"]["bytes"] == sum(f.stat().st_size for f in found.folder.iterdir() if f.suffix != ".json")
    assert after["prepared"]["fingerprint"] == found.fingerprint
    shown = harness("data", "info", "digits")[1]
    for said in ("Digits (digits)", "1437 train, 360 test", "1 x 8 x 8", "CC BY 4.0", "Alpaydin", found.fingerprint):
        assert said in shown
    shown = harness("data", "info", "cifar10")[1]
    for said in (
        "airplane, automobile",
        "not here; `harness data prepare` downloads them",
        "no; `harness data prepare",
    ):
        assert said in shown


def test_info_tells_of_an_unfinished_preparation(harness, cache):
    def interrupt(done: int, total: int) -> None:
        if done > 1100:
            raise KeyboardInterrupt

    options = {"temporal": True, "shape": [2, 4, 4], "train": 1200}
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare("noise", options, progress=interrupt)
    given = [f"--set={key}={json.dumps(value)}" for key, value in options.items()]
    (partial,) = (cache / "prepared").glob(".*.partial")
    assert json.loads(harness("data", "info", "noise", *given, "--json")[1])["unfinished"]["folder"] == str(partial)
    assert "unfinished in" in harness("data", "info", "noise", *given)[1]


def test_show_writes_a_picture_of_the_samples(harness, tmp_path):
    code, out, err = harness("data", "show", "digits", "--output", tmp_path / "new" / "d.png", "--count", 10)
    assert code == 0, err
    assert out == f"{tmp_path / 'new' / 'd.png'}\n"
    with Image.open(tmp_path / "new" / "d.png") as sheet:
        assert len(sheet.getcolors(1 << 20) or ()) > 10


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--output", "d.jpg"], "--output d.jpg: only .png is written"),
        (["--time-steps", "4"], "--time-steps: no effect on Digits, whose images do not change over time"),
        (["--count", "361", "--split", "test"], "--count 361: 'test' of Digits has 360 samples"),
    ],
)
def test_show_refuses_what_it_cannot_do(harness, given, complaint):
    code, out, err = harness("data", "show", "digits", "--quiet", *given)
    assert (code, out, err) == (2, "", f"harness: {complaint}\n")


def test_show_of_recordings_has_a_column_for_each_time_step(harness, tmp_path):
    pytest.importorskip("harness.data.frames")
    noise = ("noise", "--set", "temporal=true", "--set", "shape=[2,8,8]", "--set", "train=30")
    widths = []
    for steps in (2, 5):
        file = tmp_path / f"{steps}.png"
        code, _, err = harness("data", "show", *noise, "--time-steps", steps, "--count", 3, "--output", file)
        assert code == 0, err
        widths.append(Image.open(file).width)
    tile = 8 * round(contact.TILE / 8) + contact.GAP
    assert widths == [steps * tile + contact.GAP for steps in (2, 5)]


def test_images_stand_in_order_in_their_colours():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 8, 7)]
    pixels = np.array(colours, np.uint8)[:, :, None, None].repeat(6, axis=2).repeat(6, axis=3)  # N C H W
    sheet = contact.images(pixels, ["red", "green", "blue", "dark"])
    tile, columns = 96, 3
    for index, colour in enumerate(colours):
        left = contact.GAP + index % columns * (tile + contact.GAP)
        top = contact.GAP + contact.TEXT + index // columns * (tile + contact.TEXT + contact.GAP)
        assert sheet.getpixel((left, top)) == sheet.getpixel((left + tile - 1, top + tile - 1)) == colour


def test_frames_are_red_for_on_and_blue_for_off():
    counts = np.zeros((1, 3, 2, 4, 4))  # N T P H W
    counts[0, 0, 1], counts[0, 1, 0] = 2, 2
    sheet = contact.frames(counts, ["a recording"])
    centres = [(contact.GAP + step * (96 + contact.GAP) + 48, contact.GAP + contact.TEXT + 48) for step in range(3)]
    assert [sheet.getpixel(each) for each in centres] == [(255, 0, 0), (0, 0, 255), (255, 255, 255)]
