"""Frames of events from the prepared files to the method: merged into T steps, counted and moved alike."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from harness import augment, experiment_file, ffcv_compat, loop, plan, prepare
from harness.config import Augment, Experiment, Normalize
from harness.experiment_file import ConfigError
from harness.loader import open_data
from harness.source import find
from tests.tiny import task

OPTIONS = {"shape": (2, 6, 6), "classes": 3, "frames": 4, "train": 24, "test": 8}
ALL = Augment(crop_padding=1, flip=True, roll=2, cutout=3)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


def stored(split: str) -> torch.Tensor:
    return torch.from_numpy(np.load(prepare.prepare("noise", OPTIONS).folder / f"{split}.images.npy"))


def test_counts_arrive_as_they_are_with_time_first():
    x, _ = next(open_data("noise", OPTIONS).batches("test", 8))
    assert x.is_contiguous()
    assert torch.equal(x, stored("test").transpose(0, 1).float())


def test_unit_turns_stored_values_into_counts(monkeypatch):
    data = open_data("noise", OPTIONS)
    monkeypatch.setattr(prepare.Source, "info", replace(data.info, unit=1 / 8))
    x, _ = next(open_data("noise", OPTIONS).batches("test", 8))
    assert torch.equal(x, stored("test").transpose(0, 1) / 8)


@pytest.mark.parametrize("kind", ["torch", "ffcv"])
def test_loaders_agree_on_augmented_frames(kind):
    if kind == "ffcv" and ffcv_compat.available() is None:
        pytest.skip("FFCV is not installed")
    memory, other = (open_data("noise", OPTIONS, loader=each, augment=ALL) for each in ("memory", kind))
    for part in ("train", "validation", "test"):
        batches = zip(memory.batches(part, 4, seed=1), other.batches(part, 4, seed=1), strict=True)
        assert all(torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in batches)
    other.close()


def test_all_frames_of_a_sample_move_alike():
    data = open_data("noise", OPTIONS, augment=ALL, validation=0)
    still = dict(OPTIONS, frames=1)
    for frame in range(4):
        # The same augmentation, one frame at a time.
        whole = next(data.batches("train", 24, seed=5))[0][frame]
        drawn = torch.from_numpy(augment.draw(24, ALL, (2, 6, 6), 5, 0))
        order = open_data("noise", OPTIONS, validation=0).batches("train", 24, seed=5)
        plain = next(order)[0][frame]
        moves = augment.moves(drawn)
        assert torch.equal(whole, augment.cut_out(augment.move(plain, moves, 1), moves, 3))
    assert find("noise", still).info.sample_shape == (1, 2, 6, 6)


def test_cut_out_is_a_square_that_may_reach_over_the_border():
    x = torch.ones(2, 40, 1, 6, 7)  # F B C H W
    drawn = torch.from_numpy(augment.draw(40, Augment(cutout=3), (1, 6, 7), 0, 0))
    got = augment.cut_out(x.clone(), augment.moves(drawn), 3)
    for sample, (*_, row, column) in enumerate(drawn.tolist()):
        expected = torch.ones(6, 7)
        expected[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0
        assert torch.equal(got[:, sample, 0], expected.expand(2, 6, 7))
    assert len(set(map(tuple, drawn[:, -2:].tolist()))) > 20


@pytest.mark.parametrize("time_steps", [1, 2, 4])
def test_neighbouring_frames_are_added_up(time_steps):
    x = torch.randn(4, 3, 2, 6, 6, dtype=torch.float64)
    merged = loop.in_time(x, replace(task(time_steps=time_steps, shape=(2, 6, 6)), temporal=True))
    each = 4 // time_steps
    expected = [x[step * each : (step + 1) * each].sum(0) for step in range(time_steps)]
    torch.testing.assert_close(merged, torch.stack(expected))


def experiment(**changes) -> Experiment:
    content = {"name": "x", "dataset": {"name": "noise", **OPTIONS}, "network": "mlp", "methods": ["bptt"]}
    return Experiment.model_validate(content | changes)


def refusal(given: Experiment) -> str:
    with pytest.raises(ConfigError) as caught:
        plan.expand(given, prepare.info("noise", given.dataset.options), file="FILE")
    return str(caught.value)


def test_time_steps_that_frames_cannot_be_merged_into_are_refused():
    assert refusal(experiment(time_steps=3)) == (
        "FILE: methods.0: 4 stored frames of noise cannot be merged into T = 3 steps (possible: 1, 2, 4; the dataset's "
        "option 'frames' stores another number)"
    )
    assert "(possible: 1, 2, 4;" in refusal(experiment(time_steps=8))


def test_constants_without_effect_or_for_other_channels_are_refused():
    constants = {"mean": [0.5], "std": [0.5]}
    assert "no effect on noise" in refusal(experiment(dataset={"name": "noise", **OPTIONS, "normalize": constants}))
    still = {"name": "noise", "shape": [3, 6, 6], "normalize": constants}
    assert "one std for each channel are needed; noise has 3" in refusal(experiment(dataset=still))


def test_given_constants_replace_the_dataset_s_own():
    own, given = (
        next(open_data("digits", normalize=normalize).batches("test", 360))[0]
        for normalize in (None, Normalize(mean=(0.25,), std=(2.0,)))
    )
    info = find("digits").info
    torch.testing.assert_close(given * 2 + 0.25, own * info.std[0] + info.mean[0])


def test_training_on_everything_needs_another_choice_than_validation(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("{name: x, dataset: {name: digits, validation: 0}, network: mlp, methods: [ann]}")
    with pytest.raises(ConfigError, match=r"'dataset\.validation' is 0: nothing is left to choose by"):
        experiment_file.load(file)
    for rule in ("last", "best_test"):
        assert experiment_file.load(file, [f"evaluation.selection={rule}"]).dataset.validation == 0
