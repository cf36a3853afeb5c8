"""SLTT: spatial learning through time; the gradient of each time step alone. Meng et al., ICCV 2023 (arXiv:2302.14311).

    U_t = leak * U+_{t-1} + I_t      s_t = [U_t >= theta]      grad W = sum over t of delta_t (x) s_t

delta_t is back-propagated through the layers at step t with a surrogate derivative; nothing flows back in time, so
memory does not grow with T. SLTT-K (`backward_steps`) learns from K random steps only and simulates the others. The
loss is TET's, batch norm takes the statistics of each time step.
"""

from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from harness.contract import MethodConfig, Search, StepOutput, Task, Update, setting
from harness.models import catalog, losses, online, synced
from harness.models.neurons import Dynamics
from harness.models.surrogate import Surrogate, with_width
from harness.models.surrogate_neuron import SurrogateNeuron

MEMORY = "constant"
REDUCE = "explicit"
SOURCE = "arXiv:2302.14311, released code"


class Config(MethodConfig):
    v_threshold: float = setting(1.0, "threshold theta", gt=0, source=SOURCE, search=Search(0.3, 2))
    leak: float = setting(
        1 - 1 / 1.1, "share of the potential left after a step; 1 - 1/tau, tau = 1.1", gt=0, le=1, source=SOURCE,
        search=Search(0.05, 1),
    )  # fmt: skip
    reset: Literal["soft", "hard"] = setting("soft", "subtract theta, or set to 0", source=SOURCE)
    surrogate: Surrogate = setting("triangle", "shape of the surrogate derivative", source=SOURCE)
    surrogate_width: float = setting(
        None, "parameter of the shape; None: as in harness/models/surrogate.py", gt=0, source=SOURCE,
        search=Search(0.5, 8, log=True),
    )  # fmt: skip
    mse_share: float = setting(0.05, "share c of the MSE in the loss", ge=0, le=1, source=SOURCE)
    mse_target: Literal["one", "one_hot"] = setting(
        "one", "what the MSE pulls scores to: 1 for all classes, or the label (released code: DVS)", source=SOURCE
    )
    backward_steps: int | None = setting(
        None, "SLTT-K: number of random time steps with a gradient; None: all", ge=1, source=SOURCE
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: dict[str, Any]) -> dict[str, Any]:
        return with_width(given, "triangle")


def skip(config: Config, task: Task) -> str | None:
    if catalog.has_feedback(task):
        return f"sltt trains feed-forward networks; {task.network} has feedback"
    if (config.backward_steps or 0) > task.time_steps:
        return f"sltt cannot learn from {config.backward_steps} (backward_steps) of {task.time_steps} time steps"
    return None


def build(config: Config, task: Task) -> nn.Module:
    def neuron() -> SurrogateNeuron:
        return SurrogateNeuron(
            Dynamics(leak=config.leak, reset=config.reset),
            v_threshold=config.v_threshold, shape=config.surrogate, width=config.surrogate_width, detach_reset=True,
        )  # fmt: skip

    return catalog.build(task, neuron)


def train_step(net: nn.Module, x: Tensor, y: Tensor, config: Config, update: Update) -> StepOutput:
    def loss_of(scores: Tensor) -> Tensor:
        level = 1.0 if config.mse_target == "one" else None
        return losses.at_each_step(scores, y, mse_share=config.mse_share, level=level)

    k = config.backward_steps
    # The same on all workers, whose batch norms may count each other's samples at each step, on the way back too.
    learning = range(len(x)) if k is None else synced.of_first(torch.randperm(len(x)))[:k].tolist()
    output = online.learn(net, x, loss_of, learning=learning)
    update()
    return output


def predict(net: nn.Module, x: Tensor, config: Config) -> Tensor:
    return online.scores(net, x)
