"""Going on inside an epoch: to the bit, wherever it was left, and at the next sample."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import checkpoint, loop, plan, plugins, trial
from harness.config import DatasetBlock, Evaluation, Experiment
from harness.data import ffcv_compat, loader, prepare
from harness.loop import Stopped
from harness.pauses import Pauses, Question
from harness.record import Record
from tests import crew, fake_data
from tests.toy import Explicit, Linear, training


class Noisy(Linear):
    """Draws from every generator, and keeps a buffer that each worker fills with its own samples."""

    @staticmethod
    def build(config, task):
        net = Linear.build(config, task)
        net.register_buffer("seen", torch.zeros(1, 2, 2))
        return net

    @staticmethod
    def train_step(net, x, y, config, update):
        module = getattr(net, "module", net)
        module.seen.mul_(0.9).add_(x[0].mean(0))
        x = x + 0.01 * (float(np.random.rand()) + loop.midway.random.random()) + 0.1 * module.seen
        return Linear.train_step(net, x, y, config, update)


class NoisyDeep(Noisy):
    """With enough gradients that the order in which four workers' are added depends on where each lies."""

    @staticmethod
    def build(config, task):
        net = Noisy.build(config, task)
        net[2] = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, task.classes))
        return net


class NoisyExplicit(Noisy, Explicit):
    """The same with gradients averaged in `update()`, so that nobody evens buffers out within an epoch."""


RECIPE = {"epochs": 3, "schedule": "cosine", "warmup_steps": 6, "batch_size": 8}


def shown(trained: loop.Training) -> list:
    weights = torch.cat([value.detach().flatten() for value in trained.net.state_dict().values()])
    history = [(e.train_loss, e.train_accuracy, e.validation_accuracy, e.lr, e.extras) for e in trained.history]
    return [weights, history, trained.best["value"]]


def same(first: list, second: list) -> bool:
    return torch.equal(first[0], second[0]) and first[1:] == second[1:]


def undisturbed_and_left_at_every_place(rank: int, world: int, folder: str, method: type) -> list[bool]:
    """For each state saved inside an epoch, whether a training that goes on from there ends where others end."""
    which = {"rank": rank, "world": world, "selection": "best_validation"}
    whole = training(method, **which, **RECIPE)
    list(whole.epochs())
    files: list[Path] = []

    def save(state):
        files.append(Path(folder) / str(len(files)))
        checkpoint.save(files[-1], state)

    saving = training(method, **which, **RECIPE)
    list(saving.epochs(Pauses(save, steps=3)))
    found = [same(shown(whole), shown(saving))]
    for number in range(7):  # behind steps 3, 6; 9, 12, 15; 18, 21 of 3 epochs of 8
        torch.rand(7 + rank)  # a process that is started again finds its generators elsewhere
        resumed = training(method, **which, **RECIPE)
        resumed.restore(checkpoint.load(Path(folder) / str(number)))
        list(resumed.epochs(Pauses(save, steps=number + 1)))  # how often it is saved makes no difference
        found.append(same(shown(whole), shown(resumed)))
    return found


@pytest.mark.parametrize("method", [Noisy, NoisyExplicit])
def test_going_on_inside_an_epoch_equals_never_having_stopped(method, tmp_path):
    assert all(undisturbed_and_left_at_every_place(0, 1, str(tmp_path), method))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "world"), [(Noisy, 2), (NoisyExplicit, 2), (NoisyDeep, 4)])
def test_workers_go_on_inside_an_epoch_each_from_its_own_state(method, world, tmp_path):
    for found in crew.run(undisturbed_and_left_at_every_place, world, str(tmp_path), method):
        assert all(found)


def stopped_again_and_again(rank: int, world: int, folder: str) -> tuple[int, bool]:
    """Stop at every question until there is nothing left to do; how often, and whether it ends where others end."""
    which = {"rank": rank, "world": world}
    whole = training(Noisy, **which, **RECIPE)
    list(whole.epochs())
    stops = 0
    while True:
        trained = training(Noisy, **which, **RECIPE)
        if (state := checkpoint.load(Path(folder))) is not None:
            trained.restore(state)
        # One worker alone wants to stop.
        pauses = Pauses(lambda state: checkpoint.save(Path(folder), state), stopping=lambda: rank == world - 1)
        try:
            for _ in trained.epochs(pauses):
                if rank == 0:
                    checkpoint.save(Path(folder), trained.state())
            return stops, same(shown(whole), shown(trained))
        except Stopped:
            stops += 1
            if world > 1:
                torch.distributed.barrier()


def test_training_that_is_asked_to_stop_saves_itself_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.pauses.SECONDS", 0.0)
    stops, alike = stopped_again_and_again(0, 1, str(tmp_path))
    # Behind each of 8 steps an epoch, the last of which is before the evaluation; and behind each epoch.
    assert stops == 3 * (8 + 1)
    assert alike


@pytest.mark.slow
def test_workers_stop_together_when_one_is_asked_to(tmp_path):
    (stops, alike), *others = crew.run(stopped_again_and_again, 2, str(tmp_path))
    assert stops == 3 * (8 + 1)
    assert alike
    assert others == [(stops, alike)]


def test_one_worker_looks_at_its_clock_and_asks_once_a_second(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    asked: list[float] = []
    question = Question(lambda: bool(asked.append(now[0])), rank=0, world=1, device=loop.CPU)
    for _ in range(50):
        now[0] += 0.1
        assert not question.after_step()
    assert len(asked) in (4, 5)


def paces(rank: int, world: int) -> list[int]:
    asked: list[int] = []
    question = Question(lambda: bool(asked.append(step)), rank=rank, world=world, device=loop.CPU)
    ends = time.monotonic() + 1.5 if rank == 0 else None
    step, going = 0, True
    while going:
        step += 1
        question.after_step()
        sign = torch.tensor([float(ends is None or time.monotonic() < ends)])
        torch.distributed.all_reduce(sign, torch.distributed.ReduceOp.MIN)
        going = bool(sign)
    return [step, *asked]


@pytest.mark.slow
def test_several_workers_ask_at_the_same_steps_and_seldom():
    (steps, *asked), other = crew.run(paces, 2)
    assert other == [steps, *asked]
    assert steps > 500
    assert len(asked) < 20  # twice as long each time at first


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """One dataset of each kind of sample, with all that is drawn for it, and a cache of their own."""
    folder = tmp_path_factory.mktemp("data")
    fake_data.image_folder(folder / "pixels", train=14)
    fake_data.pictures(folder / "images", train=14)
    moved = {"crop_padding": 1, "flip": True, "cutout": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(folder / "cache"))
        patch.delenv("HARNESS_DATA", raising=False)
        yield {
            "pixels": {"name": "image_folder", "path": str(folder / "pixels"), "size": 8, "augment": moved},
            "images": {
                "name": "image_folder", "path": str(folder / "images"), "size": 12, "whole": True,
                "augment": {"random_resized_crop": [0.3, 1.0], "flip": True, "cutout": 3},
            },
            "events": {"name": "digits_events", "augment": {"roll": 2, "event_drop": 0.4}},
            "frames": {"name": "digits_events", "augment": {"roll": 2}},
        }  # fmt: skip


KINDS = [
    ("pixels", "memory"), ("pixels", "ffcv"), ("pixels", "torch"), ("images", "ffcv"), ("images", "torch"),
    ("frames", "memory"), ("events", "ffcv"), ("events", "torch"),
]  # fmt: skip


@pytest.mark.parametrize(("stored", "kind"), KINDS)
def test_batches_from_a_step_on_are_those_behind_it_and_the_others_are_not_read(stored, kind, blocks, monkeypatch):
    if stored == "images":
        pytest.importorskip("cv2")
    if kind == "ffcv" and ffcv_compat.available() is None:
        pytest.skip("FFCV is not installed")
    batch_size = 400 if stored in ("events", "frames") else 8
    data = loader.open_data(DatasetBlock.model_validate(blocks[stored] | {"loader": kind}), time_steps=2)
    asked: list[int] = []
    reader = data._readers["train"]
    monkeypatch.setattr(
        reader, "read", lambda indices, *rest, _read=reader.read: asked.append(len(indices)) or _read(indices, *rest)
    )
    for world in (1, 2):
        which = {"epoch": 2, "seed": 5, "rank": world - 1, "world": world}
        whole = [(x.clone(), y) for x, y in data.batches("train", batch_size, **which)]
        assert len(whole) >= 3
        for start in (1, len(whole) - 1, len(whole)):
            asked.clear()
            rest = [(x.clone(), y) for x, y in data.batches("train", batch_size, start=start, **which)]
            assert sum(asked) == (len(whole) - start) * batch_size // world
            assert len(rest) == len(whole) - start
            for (x, y), (expected, labels) in zip(rest, whole[start:], strict=True):
                assert torch.equal(x, expected)
                assert torch.equal(y, labels)
    data.close()


def test_evaluation_begins_at_its_beginning(blocks):
    data = loader.open_data(DatasetBlock.model_validate(blocks["pixels"]))
    with pytest.raises(ValueError, match="'test' is given from its beginning only"):
        data.batches("test", 8, start=1)
    assert [len(y) for _, y in data.batches("test", 8, rank=90, world=100)] == []


@pytest.mark.parametrize("steps", [1, 3])
def test_trial_that_is_killed_inside_an_epoch_has_the_record_of_one_that_was_not(steps, tmp_path, monkeypatch):
    prepare.prepare("digits")
    content = {
        "name": "midway", "dataset": "digits", "network": "mlp", "methods": ["ann"],
        "train": {"epochs": 2, "batch_size": 128},
    }  # fmt: skip
    (one,) = plan.expand(Experiment.model_validate(content), prepare.info("digits"))

    def run(folder: str, checkpoint_steps: int | None) -> Record:
        settings = Evaluation(latency_repeats=0)
        shared = trial.Run(
            experiment="midway", folder=str(tmp_path / folder), evaluation=settings, checkpoint_steps=checkpoint_steps
        )
        return trial.run(one, shared)

    whole = run("whole", None)
    ann, calls = plugins.load("methods", "ann"), []
    step = ann.train_step

    def train_step(*given):
        calls.append(None)
        if len(calls) == 15:  # the fifth step of the second epoch
            raise KeyboardInterrupt
        return step(*given)

    with monkeypatch.context() as patch:
        patch.setattr(ann, "train_step", train_step)
        with pytest.raises(KeyboardInterrupt):
            run("killed", steps)
    resumed = run("killed", None)
    assert resumed.restarts == 1
    kept = {"accuracy", "test_loss", "validation_accuracy", "selected_epoch", "outcome"}
    assert resumed.model_dump(include=kept) == whole.model_dump(include=kept)
    assert [(e.train_loss, e.validation_loss) for e in resumed.history] == [
        (e.train_loss, e.validation_loss) for e in whole.history
    ]
    files = [tmp_path / name / "checkpoints" / one.id / "weights.pt" for name in ("whole", "killed")]
    first, second = (checkpoint.load_weights(file) for file in files)
    assert all(torch.equal(first[key], second[key]) for key in first)
