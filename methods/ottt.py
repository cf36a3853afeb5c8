"""OTTT: online training through time, with a trace for each presynaptic neuron. Xiao et al., NeurIPS 2022.

    U_t = leak * U+_{t-1} + I_t      s_t = [U_t >= theta]      U+_t = U_t - theta * s_t
    a_t = decay * a_{t-1} + s_t      grad W = sum over t of delta_t (x) a_t

delta_t is back-propagated through the layers at step t with a surrogate derivative, nothing flows back in time, and
the trace a_t of a weight's input carries what BPTT would find there; so memory does not grow with T
(arXiv:2210.04195). Weights move after the last step (OTTT_A) or after each one (OTTT_O). As in the released code, the
network's input has no trace, and a norm takes the statistics of each time step.
"""

from typing import Any, Literal

from pydantic import model_validator
from torch import Tensor, nn

from harness.contract import MethodConfig, Search, StepOutput, Task, Update, setting
from harness.models import catalog, losses, online
from harness.models.neurons import Dynamics
from harness.models.surrogate import Surrogate, with_width
from harness.models.surrogate_neuron import SurrogateNeuron
from harness.models.traced import Tracing

MEMORY = "constant"
REDUCE = "explicit"
SOURCE = "arXiv:2210.04195, released code"


class Config(MethodConfig):
    v_threshold: float = setting(1.0, "threshold theta", gt=0, source=SOURCE, search=Search(0.3, 2))
    leak: float = setting(
        0.5, "share of the potential left after a step; 1 - 1/tau, tau = 2", gt=0, le=1, source=SOURCE,
        search=Search(0.2, 1),
    )  # fmt: skip
    reset: Literal["soft", "hard"] = setting("soft", "subtract theta, or set to 0", source=SOURCE)
    surrogate: Surrogate = setting("sigmoid", "shape of the surrogate derivative", source=SOURCE)
    surrogate_width: float = setting(
        None, "parameter of the shape; None: as in harness/models/surrogate.py", gt=0, source=SOURCE,
        search=Search(0.5, 8, log=True),
    )  # fmt: skip
    trace_decay: float = setting(None, "decay of the traces; None: the leak", ge=0, le=1, source=SOURCE)
    mse_share: float = setting(
        0.05, "share c of the MSE to the one-hot label in the loss; DVS: 0.001, ImageNet: 0", ge=0, le=1, source=SOURCE
    )
    updates: Literal["after_batch", "after_step"] = setting(
        "after_batch", "when weights move: after the last time step (OTTT_A), or after each (OTTT_O)", source=SOURCE
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("trace_decay") is None:
            given = given | {"trace_decay": given.get("leak", cls.model_fields["leak"].default)}
        return with_width(given, "sigmoid")


def skip(config: Config, task: Task) -> str | None:
    if catalog.has_feedback(task):
        return f"ottt trains feed-forward networks; {task.network} has feedback"
    if not catalog.is_linear(task):
        return f"ottt's traces need linear layers between neurons; {task.network} has max pooling or multiplies spikes"
    return None


def updates_once(config: Config) -> bool:
    return config.updates == "after_batch"


def build(config: Config, task: Task) -> nn.Module:
    def neuron() -> Tracing:
        spiking = SurrogateNeuron(
            Dynamics(leak=config.leak, reset=config.reset),
            v_threshold=config.v_threshold, shape=config.surrogate, width=config.surrogate_width, detach_reset=True,
        )  # fmt: skip
        return Tracing(spiking, config.trace_decay)

    return catalog.build(task, neuron)


def train_step(net: nn.Module, x: Tensor, y: Tensor, config: Config, update: Update) -> StepOutput:
    def loss_of(scores: Tensor) -> Tensor:
        return losses.at_each_step(scores, y, mse_share=config.mse_share, level=None)

    if config.updates == "after_step":
        return online.learn(net, x, loss_of, learning=range(len(x)), after_step=update)
    output = online.learn(net, x, loss_of, learning=range(len(x)))
    update()
    return output


def predict(net: nn.Module, x: Tensor, config: Config) -> Tensor:
    return online.scores(net, x)
