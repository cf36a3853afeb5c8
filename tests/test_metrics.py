from itertools import pairwise

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics import Tally


@given(cuts=st.lists(st.integers(1, 19), max_size=4, unique=True), seed=st.integers(0, 99))
def test_tally_does_not_depend_on_how_samples_are_batched(cuts, seed):
    generator = torch.Generator().manual_seed(seed)
    scores, y = torch.randn(3, 20, 4, generator=generator), torch.randint(4, (20,), generator=generator)
    whole = Tally.of(scores, y)
    merged = Tally.empty(3, y.device)
    edges = [0, *sorted(cuts), 20]
    for start, stop in pairwise(edges):
        merged = merged.merge(Tally.of(scores[:, start:stop], y[start:stop]))
    assert merged.samples == whole.samples == 20
    assert merged.accuracies == whole.accuracies
    assert abs(merged.mean_loss - whole.mean_loss) < 1e-6


def test_accuracy_is_in_percent_at_every_step_and_loss_at_the_last():
    y = torch.tensor([0, 1, 1, 0])
    scores = torch.zeros(2, 4, 2)
    scores[0, :, 0] = 1
    scores[1, torch.arange(4), y] = 1
    tally = Tally.of(scores, y)
    assert tally.accuracies == [50.0, 100.0]
    assert tally.mean_loss == F.cross_entropy(scores[1], y).item()
