"""BPTT: back-propagation through time with a surrogate for the spike's derivative (STBP, Wu et al., 2018).

    U_t = leak * U+_{t-1} + I_t      s_t = [U_t >= theta]      U+_t = U_t - theta * s_t (soft), U_t * (1 - s_t) (hard)

Scores are the mean over time of the last linear layer, trained by cross-entropy ("standard direct training" in the
words of Deng et al., ICLR 2022, arXiv:2202.11946). Batch norm takes its statistics over time too.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from harness.contract import MethodConfig, Search, StepOutput, Task, Update, setting
from harness.models import catalog
from harness.models.neurons import Dynamics, SurrogateNeuron, running_rates
from harness.models.surrogate import WIDTHS, Surrogate

TET = "arXiv:2202.11946"


class Config(MethodConfig):
    v_threshold: float = setting(1.0, "threshold theta", gt=0, source=TET, search=Search(0.3, 2))
    leak: float = setting(
        0.5, "share of the potential left after a step; 1 - 1/tau; 1 is the IF neuron", gt=0, le=1, source=TET,
        search=Search(0.2, 1),
    )  # fmt: skip
    reset: Literal["soft", "hard"] = setting("hard", "subtract theta, or set to 0", source=TET)
    detach_reset: bool = setting(False, "no gradient through the reset", source=TET)
    surrogate: Surrogate = setting("triangle", "shape of the surrogate derivative", source=TET)
    surrogate_width: float = setting(
        None, "parameter of the shape; None: 1 (rectangle, triangle), 4 (sigmoid), 2 (arctan)", gt=0,
        source="see harness/models/surrogate.py", search=Search(0.5, 8, log=True),
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("surrogate_width") is not None:
            return given
        shape = given.get("surrogate", cls.model_fields["surrogate"].default)
        return given | {"surrogate_width": WIDTHS.get(shape)}


class Network(nn.Module):
    """An architecture of surrogate neurons: x (T, B, C, H, W) -> scores (B, K)."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        self.config = config
        self.body = catalog.build(task, self._neuron)

    def _neuron(self) -> SurrogateNeuron:
        c = self.config
        return SurrogateNeuron(
            Dynamics(leak=c.leak, reset=c.reset),
            v_threshold=c.v_threshold, shape=c.surrogate, width=c.surrogate_width, detach_reset=c.detach_reset,
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "B K"]:
        return self.body(x).mean(0)

    @torch.no_grad()
    def scores(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B K"]:
        """The mean of the last layer after each time step."""
        return torch.stack(list(running_rates(self.body(x))))


def skip(config: Config, task: Task) -> str | None:
    return f"bptt trains feed-forward networks; {task.network} has feedback" if catalog.has_feedback(task) else None


def build(config: Config, task: Task) -> nn.Module:
    return Network(config, task)


def train_step(net: nn.Module, x: Tensor, y: Tensor, config: Config, update: Update) -> StepOutput:
    logits = net(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    update()
    return StepOutput(loss.detach(), logits.detach())


def predict(net: nn.Module, x: Tensor, config: Config) -> Tensor:
    return net.scores(x)  # type: ignore[operator]
