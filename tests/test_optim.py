import math

import pytest
import torch

from harness import optim
from harness.config import Train


def factor(epoch: int, step: int = 0, **recipe) -> float:
    return optim.lr_factor(Train(**recipe), epoch=epoch, step=step)


def test_cosine_goes_from_one_to_zero_once_an_epoch():
    assert factor(0, epochs=10) == 1
    assert factor(5, epochs=10) == pytest.approx(0.5)
    assert factor(10, epochs=10) == pytest.approx(0)
    assert factor(3, step=0, epochs=10) == factor(3, step=99, epochs=10) == 0.5 * (1 + math.cos(0.3 * math.pi))


def test_step_drops_at_its_milestones():
    steps = [factor(e, schedule="step", milestones=(2, 4), gamma=0.1) for e in range(5)]
    assert steps == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_warm_up_rises_linearly_over_batches():
    assert [factor(0, step=s, schedule="constant", warmup_steps=4) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_set_lr_scales_every_groups_own_base():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.01}]
    optimizer = optim.optimizer(groups, Train(lr=0.1))
    for _ in range(2):
        optim.set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.005]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_every_optimizer_goes_downhill(name):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = optim.optimizer([weight], Train(optimizer=name, lr=0.01))
    weight.square().sum().backward()
    optimizer.step()
    assert weight.square().sum() < 3


def scaled(rule: str) -> float:
    parameter = torch.nn.Parameter(torch.zeros(1))
    made = optim.optimizer([parameter], Train(lr=0.1, batch_size=1024, lr_scaling={"rule": rule, "reference": 256}))
    return made.param_groups[0]["lr"]


def test_learning_rate_follows_the_batch_size_as_asked():
    assert scaled("linear") == pytest.approx(0.4)
    assert scaled("sqrt") == pytest.approx(0.2)
    assert optim.lr_scale(Train(batch_size=1024)) == 1


def test_own_learning_rate_of_a_group_follows_too_and_the_schedule_comes_on_top():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.01}]
    made = optim.optimizer(groups, Train(lr=0.1, batch_size=128, lr_scaling={"reference": 256}))
    optim.set_lr(made, 0.5)
    assert [group["lr"] for group in made.param_groups] == pytest.approx([0.025, 0.0025])
    assert groups[1]["lr"] == 0.01
