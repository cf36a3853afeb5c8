from itertools import pairwise

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics import Tally
from tests import crew

CONFIDENCES = (0.3, 0.5)


@given(cuts=st.lists(st.integers(1, 19), max_size=4, unique=True), seed=st.integers(0, 99))
def test_tally_does_not_depend_on_how_samples_are_batched(cuts, seed):
    generator = torch.Generator().manual_seed(seed)
    scores, y = torch.randn(3, 20, 7, generator=generator), torch.randint(7, (20,), generator=generator)
    whole = Tally.of(scores, y, CONFIDENCES)
    merged = Tally.empty(3, y.device, CONFIDENCES)
    edges = [0, *sorted(cuts), 20]
    for start, stop in pairwise(edges):
        merged = merged.merge(Tally.of(scores[:, start:stop], y[start:stop], CONFIDENCES))
    assert merged.samples == whole.samples == 20
    assert merged.accuracies == whole.accuracies
    for name, sums in vars(whole.anytime).items():
        assert torch.equal(getattr(merged.anytime, name), sums)
    assert abs(merged.mean_loss - whole.mean_loss) < 1e-6


def test_accuracy_is_in_percent_at_every_step_and_loss_at_the_last():
    y = torch.tensor([0, 1, 1, 0])
    scores = torch.zeros(2, 4, 2)
    scores[0, :, 0] = 1
    scores[1, torch.arange(4), y] = 1
    tally = Tally.of(scores, y)
    assert tally.accuracies == [50.0, 100.0]
    assert tally.mean_loss == F.cross_entropy(scores[1], y).item()


def test_early_exit_is_at_the_first_step_that_is_sure_and_at_the_latest_at_the_last():
    generator = torch.Generator().manual_seed(0)
    scores, y = 2 * torch.randn(6, 50, 4, generator=generator), torch.randint(4, (50,), generator=generator)
    confidences = (0.4, 0.7, 0.9, 0.999)
    found = Tally.of(scores, y, confidences).anytime
    for index, confidence in enumerate(confidences):
        steps = right = 0
        for sample, label in enumerate(y.tolist()):
            likeliest = scores[:, sample].double().softmax(-1)
            t = next((t for t in range(6) if likeliest[t].max() >= confidence), 5)
            steps, right = steps + t + 1, right + (likeliest[t].argmax().item() == label)
        assert (found.exit_steps[index], found.exit_correct[index]) == (steps, right)


def test_exit_that_is_never_sure_is_the_whole_simulation_and_one_that_always_is_the_first_step():
    scores, y = torch.randn(4, 30, 3), torch.zeros(30, dtype=torch.int64)
    tally = Tally.of(scores, y, (1 - 1e-15, 1e-9))
    assert tally.anytime.exit_steps.tolist() == [4 * 30, 30]
    assert tally.anytime.exit_correct.tolist() == [tally.correct[-1], tally.correct[0]]


def test_top5_counts_a_class_that_is_among_the_five_likeliest():
    scores = torch.arange(8.0).expand(2, 8, 8)  # class 3 is fifth
    assert Tally.of(scores, torch.arange(8), ()).anytime.correct_top5.tolist() == [5, 5]
    assert Tally.of(scores[..., :5], torch.arange(8) % 5, ()).anytime.correct_top5.tolist() == [0, 0]


def test_training_counts_no_more_than_it_needs():
    assert Tally.of(torch.randn(2, 3, 8), torch.arange(3)).anytime is None


def _share(rank: int, world: int) -> dict[str, list[float]]:
    generator = torch.Generator().manual_seed(0)
    scores, y = torch.randn(3, 21, 7, generator=generator), torch.randint(7, (21,), generator=generator)
    tally = Tally.of(scores[:, rank::world], y[rank::world], CONFIDENCES).over_workers()
    return {name: sums.tolist() for name, sums in vars(tally.anytime).items()} | {"correct": tally.correct.tolist()}


def test_several_workers_count_together_what_one_counts():
    assert crew.run(_share, 2) == 2 * [_share(0, 1)]
