"""Events from the prepared file to the method: frames at any T, fed alike by every loader, moved alike over time."""

from itertools import product
from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate

from harness import experiment_file, plan, trial
from harness.config import Augment, DatasetBlock, Evaluation, Experiment
from harness.data import augment, event_readers, event_store, ffcv_compat, frames, loader, prepare, source, stand_in
from harness.data.loader import Data
from harness.experiment_file import ConfigError

SHAPE = (2, 6, 6)
NOISE = {"name": "noise", "temporal": True, "shape": SHAPE, "classes": 3, "train": 24, "test": 7}
MOVES = {"crop_padding": 1, "flip": True, "roll": 2, "cutout": 3}
PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def folders(cache, monkeypatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", cache)
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.delenv("HARNESS_MEMORY_LIMIT", raising=False)


def block(**settings: Any) -> DatasetBlock:
    return DatasetBlock.model_validate(NOISE | {"validation": 0.25} | settings)


def open_data(time_steps: int = 4, **settings: Any) -> Data:
    return loader.open_data(block(**settings), time_steps=time_steps)


def batches(data: Data, part: str, batch_size: int = 8, **which: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(x.clone(), y.clone()) for x, y in data.batches(part, batch_size, seed=1, **which)]


def equal(first: list, second: list) -> bool:
    return all(torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in zip(first, second, strict=True))


def other_loaders() -> list[str]:
    return ["torch", "ffcv"] if ffcv_compat.available() else ["torch"]


@pytest.mark.parametrize("time_steps", [1, 3, 10])
def test_one_file_gives_frames_at_every_t_with_time_first(time_steps):
    data = open_data(time_steps)
    x, y = batches(data, "test")[0]
    module, options = source.of(block()).module, source.of(block()).config
    info = data.info
    for sample, (events, label) in enumerate(module.samples(None, "test", options)):
        cut = frames.cut(info, block().frames, time_steps)
        expected = frames.count(cut, event_store.pack(events, SHAPE))
        assert torch.equal(x[:, sample], torch.from_numpy(expected).float())
        assert y[sample] == label
    assert x.is_contiguous()
    assert data.fingerprint == open_data(7).fingerprint
    assert len(list((source.cache() / "prepared").glob("noise-*/test.beton"))) == 1


@pytest.mark.parametrize("kind", other_loaders())
@pytest.mark.parametrize("settings", [{"augment": MOVES}, {"augment": MOVES, "frames": {"size": 9, "by": "count"}}])
def test_loaders_agree_for_any_number_of_workers(kind, settings):
    memory, other = open_data(loader="memory", **settings), open_data(loader=kind, **settings)
    assert (memory.kind, other.kind) == ("memory", kind)
    for part, world in product(PARTS, (1, 2, 4)):
        for rank in range(world):
            which = {"rank": rank, "world": world, "epoch": world}
            assert equal(batches(memory, part, **which), batches(other, part, **which))
    other.close()


@pytest.mark.skipif(ffcv_compat.available() is None, reason="FFCV is not installed")
@pytest.mark.parametrize("order", ["random", "quasi_random"])
def test_pages_that_ffcv_keeps_hold_the_same_recordings(order):
    mapped, paged = (open_data(loader="ffcv", order=order, os_cache=cached) for cached in (True, False))
    for part in PARTS:
        assert equal(batches(mapped, part), batches(paged, part))
    mapped.close()
    paged.close()


def test_processes_make_the_frames_that_threads_make():
    memory, other = open_data(loader="memory"), open_data(loader="torch")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert equal(batches(memory, "train"), batches(other, "train"))
    finally:
        torch.set_num_threads(threads)


def test_workers_together_see_what_one_sees():
    data = open_data(loader="torch", augment={**MOVES, "event_drop": 0.6})
    alone = batches(data, "train")
    for world in (2, 4):
        shares = [batches(data, "train", rank=rank, world=world) for rank in range(world)]
        for (x, y), *shared in zip(alone, *shares, strict=True):
            assert torch.equal(x, torch.stack([each for each, _ in shared], dim=2).flatten(1, 2))
            assert torch.equal(y, torch.stack([each for _, each in shared], dim=1).flatten())


@pytest.mark.skipif(ffcv_compat.available() is None, reason="FFCV is not installed")
def test_loaders_leave_out_the_same_events():
    dropping = {"event_drop": 0.6}
    ffcv, torch_ = (open_data(loader=kind, augment=dropping) for kind in ("ffcv", "torch"))
    for part in PARTS:
        assert equal(batches(ffcv, part, epoch=2), batches(torch_, part, epoch=2))
    assert open_data(augment=dropping).kind == "ffcv"
    ffcv.close()


def test_events_are_left_out_anew_in_each_epoch_and_in_training_alone():
    dropping, plain = (open_data(loader="torch", augment={"event_drop": drop}) for drop in (0.6, 0))
    assert not equal(batches(dropping, "train", epoch=1), batches(dropping, "train", epoch=2))
    for (some, _), (whole, _) in zip(batches(dropping, "train"), batches(plain, "train"), strict=True):
        assert (some <= whole).all()
        assert some.sum() < whole.sum()
    assert equal(batches(dropping, "validation"), batches(plain, "validation"))
    assert equal(batches(dropping, "train", augmented=False), batches(plain, "train"))


def test_frames_made_once_cannot_leave_out_events_anew():
    with pytest.raises(ValueError, match=r"augment\.event_drop .* loader 'memory' makes frames once: choose"):
        open_data(loader="memory", augment={"event_drop": 0.1})


def test_auto_without_ffcv_says_why_it_is_slow(monkeypatch, caplog):
    monkeypatch.setattr(ffcv_compat, "available", lambda: None)
    assert open_data(augment={"event_drop": 0.1}).kind == "torch"
    assert "draws events anew and FFCV is not installed: read one by one, slowly" in caplog.text


def test_without_numba_frames_are_the_same(monkeypatch):
    settings = {"frames": {"by": "count", "downsample": 2}, "augment": {"event_drop": 0.5}}
    still = {"frames": settings["frames"]}
    expected = batches(open_data(loader="torch", **settings), "train"), batches(open_data(**still), "test")
    monkeypatch.setattr(event_readers, "compiled", lambda: False)
    assert equal(expected[0], batches(open_data(loader="torch", **settings), "train"))
    assert equal(expected[1], batches(open_data(**still), "test"))


def test_what_fits_in_memory_is_judged_by_the_frames_before_they_are_resized(monkeypatch):
    stored = 31 * 4 * 2 * 36
    for size, limit, kind in ((None, stored, "memory"), (2, stored - 1, "other"), (50, stored, "memory")):
        monkeypatch.setenv("HARNESS_MEMORY_LIMIT", str(limit))
        assert (open_data(frames={"size": size}).kind == "memory") == (kind == "memory")
    monkeypatch.setenv("HARNESS_MEMORY_LIMIT", str(stored // 4))
    assert open_data(frames={"downsample": 2}).kind == "memory"


def test_counts_are_resized_before_they_are_moved():
    settings = {"frames": {"size": 9}}
    plain, moved = open_data(**settings), open_data(augment=MOVES, **settings)
    whole, sized = batches(open_data(), "train")[0][0], batches(plain, "train")[0][0]  # T B P H W
    expected = interpolate(whole.flatten(0, 1), (9, 9), mode="bilinear").view(4, 8, 2, 9, 9)
    torch.testing.assert_close(sized, expected)
    assert plain.info.shape == (2, 9, 9)
    drawn = augment.moves(torch.from_numpy(augment.draw(16, Augment(**MOVES), (2, 9, 9), 1, 0)[:8]))
    by_frame = torch.stack([augment.cut_out(augment.move(each, drawn, 1), drawn, 3) for each in sized])
    got = batches(moved, "train")[0][0]
    assert torch.equal(got, by_frame)
    assert got.is_contiguous()


def test_all_frames_of_a_sample_move_alike():
    plain, moved = batches(open_data(), "train")[0][0], batches(open_data(augment=MOVES), "train")[0][0]
    drawn = augment.moves(torch.from_numpy(augment.draw(16, Augment(**MOVES), SHAPE, 1, 0)[:8]))
    expected = torch.stack([augment.cut_out(augment.move(each, drawn, 1), drawn, 3) for each in plain])
    assert torch.equal(moved, expected)


def test_cut_out_is_a_square_that_may_reach_over_the_border():
    x = torch.ones(2, 40, 1, 6, 7)  # T B P H W
    drawn = torch.from_numpy(augment.draw(40, Augment(cutout=3), (1, 6, 7), 0, 0))
    got = augment.cut_out(x.clone(), augment.moves(drawn), 3)
    for sample, (*_, row, column) in enumerate(drawn.tolist()):
        expected = torch.ones(6, 7)
        expected[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0
        assert torch.equal(got[:, sample, 0], expected.expand(2, 6, 7))
    assert len(set(map(tuple, drawn[:, -2:].tolist()))) > 20


def test_recordings_may_be_empty(monkeypatch):
    module = source.of(block()).module
    drawn = module._drawn
    monkeypatch.setattr(module, "_drawn", lambda *at: (drawn(*at)[0][: 0 if at[2] % 2 else None], drawn(*at)[1]))
    for kind in ("memory", *other_loaders()):
        data = open_data(loader=kind, seed=5)
        x, _ = batches(data, "test")[0]
        assert (x.sum((0, 2, 3, 4)) > 0).tolist() == [True, False] * 3 + [True]
        data.close()


def experiment(**changes: Any) -> Experiment:
    content = {"name": "x", "dataset": NOISE, "network": "mlp", "methods": ["bptt"], "time_steps": 2}
    return Experiment.model_validate(content | changes)


def test_a_trained_network_is_evaluated_at_another_t_on_frames_of_that_t(tmp_path):
    given = experiment(train={"epochs": 1, "batch_size": 8}, evaluation={"latency_repeats": 0})
    (planned,) = plan.expand(given, prepare.info("noise", given.dataset.options))
    settings = trial.Run(experiment="x", folder=str(tmp_path), evaluation=Evaluation(latency_repeats=0))
    result = trial.run(planned, settings)
    assert result is not None
    assert trial.reevaluate(result, tmp_path, 2).accuracies == pytest.approx(list(result.accuracy.values()))
    assert len(trial.reevaluate(result, tmp_path, 5).accuracies) == 5


def test_noise_stands_in_for_events_with_the_same_frames(tmp_path):
    options = {"frames": {"by": "count", "downsample": 2, "size": 20}, "augment": {"event_drop": 0.1}}
    replaced, info, sentence = stand_in.replaced(experiment(dataset={"name": "cifar10_dvs", **options}))
    assert "noise in its shape" in str(sentence)
    assert info.stored == "events"
    assert (replaced.dataset.frames.size, replaced.dataset.augment.event_drop) == (20, 0.1)
    (planned,) = plan.expand(replaced, info)
    assert planned.task(source.seen(info, replaced.dataset)).shape == (2, 20, 20)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": {"downsample": 4}}, "frames.downsample: 4 does not divide 6 x 6 pixels"),
        ({"normalize": {"mean": [0.5], "std": [0.5]}}, "normalize: no effect on noise, whose frames are counts"),
        ({"store": {"quality": 50}}, "store: no effect on noise, which is not stored as whole images"),
        ({"temporal": False, "frames": {"binary": True}}, "frames: no effect on noise, which is not stored as events"),
        ({"temporal": False, "augment": {"event_drop": 0.1}}, "augment.event_drop: no effect on noise"),
        (
            {"temporal": False, "shape": (3, 6, 6), "normalize": {"mean": [0.5], "std": [0.5]}},
            "one std for each channel are needed; noise has 3",
        ),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    given = experiment(dataset=NOISE | settings)
    with pytest.raises(ConfigError) as caught:
        plan.expand(given, prepare.info("noise", given.dataset.options), file="FILE")
    assert message in str(caught.value)
    with pytest.raises(ValueError, match=r"no effect|needed|divide"):
        open_data(**settings)


def test_given_constants_replace_the_dataset_s_own():
    digits = [
        loader.open_data(DatasetBlock.model_validate({"name": "digits", "normalize": normalize}))
        for normalize in (None, {"mean": [0.25], "std": [2.0]})
    ]
    own, given = (next(data.batches("test", 360))[0] for data in digits)
    info = source.find("digits").info
    torch.testing.assert_close(given * 2 + 0.25, own * info.std[0] + info.mean[0])


def test_training_on_everything_needs_another_choice_than_validation(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("{name: x, dataset: {name: digits, validation: 0}, network: mlp, methods: [ann]}")
    with pytest.raises(ConfigError, match=r"'dataset\.validation' is 0: nothing is left to choose by"):
        experiment_file.load(file)
    for rule in ("last", "best_test"):
        assert experiment_file.load(file, [f"evaluation.selection={rule}"]).dataset.validation == 0
