import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from harness.models import losses
from tests.tiny import labels, unhurried


def scores(seed: int = 0, time_steps: int = 5):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(time_steps, 6, 3, dtype=torch.float64, generator=generator)


@unhurried
@given(seed=st.integers(0, 1000))
def test_judging_each_step_is_never_below_judging_the_mean(seed):
    # Jensen's inequality; Deng et al., ICLR 2022
    each = losses.at_each_step(scores(seed), labels(), mse_share=0, level=None)
    assert each >= losses.cross_entropy(scores(seed), labels())


def test_scores_that_do_not_change_are_judged_alike_at_each_step_and_in_the_mean():
    still = scores()[:1].expand(5, -1, -1)
    each = losses.at_each_step(still, labels(), mse_share=0, level=None)
    torch.testing.assert_close(each, losses.cross_entropy(still, labels()))


@pytest.mark.parametrize("level", [None, 0.7])
def test_loss_at_each_step_is_the_mean_of_the_losses_of_the_steps(level):
    target = F.one_hot(labels(), 3).double() if level is None else torch.full((6, 3), level, dtype=torch.float64)
    expected = sum(0.8 * F.cross_entropy(s, labels()) + 0.2 * F.mse_loss(s, target) for s in scores()) / 5
    torch.testing.assert_close(losses.at_each_step(scores(), labels(), mse_share=0.2, level=level), expected)


LOSSES = {
    "cross_entropy": losses.cross_entropy,
    "mse": losses.mse,
    "at_each_step": lambda s, y: losses.at_each_step(s, y, mse_share=0.3, level=None),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_classes_may_be_given_as_probabilities(loss):
    expected = loss(scores(), labels())
    torch.testing.assert_close(loss(scores(), F.one_hot(labels(), 3).double()), expected)
    assert loss(scores(), torch.full((6, 3), 1 / 3)).isfinite()


def test_mse_is_zero_where_the_right_neuron_always_fires_and_the_others_never():
    spikes = F.one_hot(labels(), 3).double().expand(5, -1, -1)
    assert losses.mse(spikes, labels()) == 0
    assert losses.mse(1 - spikes, labels()) == 1
