import pytest
import torch
import torch.distributed as dist

from harness import loop
from harness.loop import Diverged
from harness.models import transfer
from tests import crew
from tests.toy import Explicit, Linear, Points, training


def weights(trained: loop.Training) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trained.net.parameters()])


def run(trained: loop.Training) -> loop.Training:
    list(trained.epochs())
    return trained


def test_same_seed_repeats_bit_for_bit():
    first, second = run(training()), run(training())
    assert torch.equal(weights(first), weights(second))
    assert [e.train_loss for e in first.history] == [e.train_loss for e in second.history]


def test_resuming_equals_never_having_stopped(tmp_path):
    whole = run(training(schedule="cosine", warmup_steps=6))
    stopped = training(schedule="cosine", warmup_steps=6)
    epochs = stopped.epochs()
    next(epochs), next(epochs)
    torch.save(stopped.state(), tmp_path / "state.pt")
    torch.rand(7)  # a restarted process finds its generators in another state
    resumed = training(schedule="cosine", warmup_steps=6)
    resumed.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    run(resumed)
    assert torch.equal(weights(whole), weights(resumed))
    assert [(e.train_loss, e.validation_accuracy, e.lr) for e in whole.history] == [
        (e.train_loss, e.validation_accuracy, e.lr) for e in resumed.history
    ]


def test_history_says_what_was_done():
    trained = run(training())
    assert [e.epoch for e in trained.history] == [0, 1, 2, 3]
    assert trained.history[0].extras == {"seen": 16.0}
    assert trained.history[-1].train_loss < trained.history[0].train_loss
    assert all(e.seconds > 0 for e in trained.history)
    assert trained.history[0].test_accuracy is None


def test_selection_rules_pick_their_epoch(monkeypatch):
    shown = {"validation": iter([50.0, 90.0, 90.0, 10.0]), "test": iter([60.0, 70.0, 80.0, 20.0])}

    def evaluate(self, part):
        accuracy = torch.tensor([0.0, 0.0, next(shown[part])], dtype=torch.float64)
        one = torch.ones((), dtype=torch.float64)
        return loop.Tally(accuracy, one, 100 * one)

    picked = {}
    for rule in ("last", "best_validation", "best_test"):
        monkeypatch.setattr(loop.Training, "evaluate", evaluate)
        shown = {"validation": iter([50.0, 90.0, 90.0, 10.0]), "test": iter([60.0, 70.0, 80.0, 20.0])}
        picked[rule] = run(training(selection=rule)).best["epoch"]
    assert picked == {"last": 3, "best_validation": 1, "best_test": 2}


def test_selected_weights_are_those_of_the_selected_epoch():
    trained = training(selection="best_validation")
    seen = {}
    for epoch in trained.epochs():
        seen[epoch.epoch] = weights(trained)
    trained.use_selected()
    assert torch.equal(weights(trained), seen[trained.best["epoch"]])


def test_test_split_is_not_read_while_training_decides(monkeypatch):
    asked = []
    evaluate = loop.Training.evaluate
    monkeypatch.setattr(loop.Training, "evaluate", lambda self, part: asked.append(part) or evaluate(self, part))
    run(training(selection="best_validation"))
    assert set(asked) == {"validation"}


def test_loss_that_is_not_finite_ends_the_training_and_names_the_step():
    class Broken(Linear):
        steps = 0

        @classmethod
        def train_step(cls, net, x, y, config, update):
            cls.steps += 1
            output = Linear.train_step(net, x, y, config, update)
            return loop_output(output, nan=cls.steps == 7)

    def loop_output(output, *, nan):
        return type(output)(output.loss * float("nan") if nan else output.loss, output.logits)

    with pytest.raises(Diverged, match="step 6 "):
        run(training(Broken))


def test_clipping_bounds_the_whole_gradient():
    trained = training(clip_norm=1e-3, momentum=0.0, weight_decay=0.0, schedule="constant", lr=1.0, epochs=1)
    before = weights(trained).clone()
    run(trained)
    assert (weights(trained) - before).norm() <= 4 * 1e-3 * 1.0001


def test_limited_batches_are_few_and_smoothed_labels_train():
    trained = run(training(limit_batches=1, label_smoothing=0.1, epochs=2))
    assert trained.evaluate("test").samples == 30
    assert trained.history[1].train_loss < 1.2


def test_bfloat16_trains_close_to_float32():
    exact, half = run(training(epochs=2)), run(training(epochs=2, precision="bfloat16"))
    assert abs(exact.history[-1].train_loss - half.history[-1].train_loss) < 0.05
    assert weights(half).dtype == torch.float32


class Untrainable(Linear):
    """Whoever trains it is caught."""

    @staticmethod
    def train_step(net, x, y, config, update):
        raise AssertionError("trained")


@pytest.mark.parametrize("selection", ["last", "best_validation", "best_test"])
def test_no_epochs_judge_the_weights_that_there_are(selection):
    trained = training(Untrainable, epochs=0, selection=selection)
    before = weights(trained).clone()
    assert list(trained.epochs()) == []
    assert trained.history == []
    assert trained.best["epoch"] is None
    assert trained.best["validation_accuracy"] == trained.evaluate("validation").accuracies[-1]
    trained.use_selected()
    assert torch.equal(weights(trained), before)


def test_training_goes_on_from_given_weights():
    source = run(training())
    started = training(weights=source.net.state_dict(), epochs=1, lr=0.01)
    assert torch.equal(weights(started), weights(source))
    run(started)
    assert started.history[0].train_loss < source.history[0].train_loss
    assert not torch.equal(weights(started), weights(source))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda w: w.pop("2.bias"), "missing in the given weights: 2.bias"),
        (lambda w: w.update({"5.bias": torch.ones(1)}), "unknown to the network: 5.bias"),
        (lambda w: w.update({"2.bias": torch.ones(7)}), r"of another shape: 2.bias \(7,\) for \(2,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(change, complaint):
    fresh = training()
    given = {key: torch.zeros_like(value) for key, value in fresh.net.state_dict().items()}
    change(given)
    with pytest.raises(ValueError, match=complaint):
        training(weights=given)
    before = weights(fresh).clone()
    with pytest.raises(ValueError, match=complaint):
        transfer.load(fresh.net, given)
    assert torch.equal(weights(fresh), before)


class Calibrated(Linear):
    """Starts from weights times the mean of what it sees of the training images."""

    seen = []

    @staticmethod
    def start(net, given, batches, config):
        assert not net.training
        assert not torch.is_grad_enabled()
        Calibrated.seen = list(batches)
        mean = torch.cat(Calibrated.seen, 1).mean()
        transfer.load(net, {key: value * mean for key, value in given.items()})


def test_a_methods_own_start_sees_the_training_part_once():
    given = training().net.state_dict()
    started = training(Calibrated, weights=given)
    assert [x.shape for x in Calibrated.seen] == [(3, 16, 1, 2, 2)] * 4
    images = torch.cat([x[0] for x in Calibrated.seen]).flatten(1)
    everything = torch.cat([x for x, _ in Points().batches("train", 16)]).flatten(1)
    assert torch.equal(images.sort(0).values, everything.sort(0).values)
    assert torch.equal(weights(started), torch.cat([v.flatten() for v in given.values()]) * images.mean())
    training(Calibrated, weights=given, limit_batches=3)
    assert len(Calibrated.seen) == 3


def _worker(rank: int, world: int, method: type) -> tuple[torch.Tensor, float, int]:
    trained = run(training(method, rank=rank, world=world))
    return weights(trained), trained.history[-1].train_loss, trained.evaluate("test").samples


class NoDropout(Linear):
    """Without dropout, two workers compute exactly what one does."""

    @staticmethod
    def build(config, task):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, task.classes))


class NoDropoutExplicit(NoDropout, Explicit):
    """The same with gradients averaged in `update()`."""


@pytest.mark.slow
def test_two_workers_equal_one_and_both_ways_to_average_agree():
    one = run(training(NoDropout))
    for method in (NoDropout, NoDropoutExplicit):
        found, loss, samples = crew.run(_worker, 2, method)[0]
        assert torch.allclose(found, weights(one), atol=1e-6)
        assert loss == pytest.approx(one.history[-1].train_loss, abs=1e-6)
        assert samples == 30


class Apart(NoDropoutExplicit):
    """Every worker starts elsewhere, unless somebody sees to it that none does."""

    @staticmethod
    def start(net, given, batches, config):
        transfer.load(net, {key: value + dist.get_rank() for key, value in given.items()})


def _starter(rank: int, world: int, given: dict) -> tuple[torch.Tensor, float]:
    started = training(Apart, rank=rank, world=world, weights=given, epochs=0)
    run(started)
    return weights(started), started.best["validation_accuracy"]


@pytest.mark.slow
def test_all_workers_start_from_the_same_weights_and_judge_them_together():
    source = run(training(NoDropout))
    alone = run(training(NoDropout, weights=source.net.state_dict(), epochs=0))
    for found, accuracy in crew.run(_starter, 2, dict(source.net.state_dict())):
        assert torch.equal(found, weights(source))
        assert accuracy == alone.best["validation_accuracy"]
