"""BPTT: back-propagation through time with a surrogate for the spike's derivative (STBP, Wu et al., 2018).

    U_t = leak * U+_{t-1} + gain * I_t    s_t = [U_t >= theta]    U+_t = U_t - theta * s_t (soft), U_t (1 - s_t) (hard)

LIF has gain 1, IF leak and gain 1, PLIF a trained 1 / tau = gain = 1 - leak in each layer (arXiv:2007.05785). Scores
are the last linear layer's, or the spikes of K more neurons (STBP). Losses are in `harness/models/losses.py`; the
default, cross-entropy of the mean score, is "standard direct training" in the words of Deng et al. (arXiv:2202.11946).
"""

from typing import Any, Literal, assert_never

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from harness.contract import MethodConfig, Search, StepOutput, Task, Update, setting
from harness.models import catalog, losses, norms
from harness.models.neurons import Dynamics, running_rates
from harness.models.pieces import in_segments
from harness.models.surrogate import Surrogate, with_width
from harness.models.surrogate_neuron import SurrogateNeuron

TET, PLIF = "arXiv:2202.11946", "arXiv:2007.05785"
PAPER: dict[tuple[str, str], dict[str, float]] = {
    ("neuron", "lif"): {"leak": 0.5},
    ("neuron", "plif"): {"tau": 2.0},
    ("loss", "tet"): {"tet_lambda": 0.05, "tet_phi": 1.0},
}
"""Settings that belong to one choice of another setting only, with their defaults."""


class Config(MethodConfig):
    neuron: Literal["lif", "if", "plif"] = setting(
        "lif", "neuron model; plif learns its leak", search=Search(choices=("lif", "if", "plif")), later=True
    )
    v_threshold: float = setting(1.0, "threshold theta", gt=0, source=TET, search=Search(0.3, 2))
    leak: float | None = setting(
        None, "lif: share of the potential left after a step, 1 - 1/tau; None: 0.5", gt=0, le=1, source=TET,
        search=Search(0.2, 1),
    )  # fmt: skip
    tau: float | None = setting(
        None, "plif: membrane time constant at first; None: 2", unit="time steps", gt=1, source=PLIF,
        search=Search(1.1, 5), later=True,
    )  # fmt: skip
    reset: Literal["soft", "hard"] = setting("hard", "subtract theta, or set to 0", source=TET)
    detach_reset: bool = setting(False, "no gradient through the reset", source=TET)
    surrogate: Surrogate = setting("triangle", "shape of the surrogate derivative", source=TET)
    surrogate_width: float = setting(
        None, "parameter of the shape; None: as in harness/models/surrogate.py", gt=0, search=Search(0.5, 8, log=True)
    )
    norm: norms.Kind = setting(
        "merged", "statistics over time too; the same, scaled by theta (tdBN, arXiv:2011.05280); of each step alone",
        later=True,
    )  # fmt: skip
    loss: Literal["cross_entropy", "mse", "tet"] = setting(
        "cross_entropy", "of the mean score; squared error of the mean score; of the score of each step", later=True
    )
    tet_lambda: float | None = setting(
        None, "tet: share of the MSE; None: 0.05; ImageNet, DVS: 0.001", ge=0, le=1, source=TET, later=True
    )
    tet_phi: float | None = setting(None, "tet: what the MSE pulls scores to; None: 1", source=TET, later=True)
    readout: Literal["linear", "spiking"] = setting(
        "linear", "scores: the last linear layer, or the spikes of one neuron a class behind it (STBP)", later=True
    )
    time_segments: int = setting(
        1, "parts of the simulation, computed twice to save memory", ge=1, source="arXiv:1604.06174", later=True
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: dict[str, Any]) -> dict[str, Any]:
        filled = with_width(given, "triangle")
        for (key, choice), owned in PAPER.items():
            chosen = given.get(key, cls.model_fields[key].default) == choice
            missing = [name for name in owned if given.get(name) is None]
            if chosen:
                filled = filled | {name: owned[name] for name in missing}
            elif len(missing) < len(owned):
                raise ValueError(f"{' and '.join(owned)}: only with {key}: {choice}")
        if given.get("loss") == "tet" and given.get("readout") == "spiking":
            raise ValueError("loss: tet judges the last linear layer; it wants readout: linear")
        return filled

    @property
    def dynamics(self) -> Dynamics:
        """The neuron; of plif, where it starts."""
        if self.tau is not None:
            return Dynamics(leak=1 - 1 / self.tau, gain=1 / self.tau, reset=self.reset)
        return Dynamics(leak=1.0 if self.leak is None else self.leak, reset=self.reset)


class Network(nn.Module):
    """An architecture of surrogate neurons: x (T, B, C, H, W) -> scores (T, B, K)."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        self.config = config
        self.body = catalog.build(task, self._neuron, norm=norms.choice(config.norm, config.v_threshold))
        if config.readout == "spiking":
            self.body = nn.Sequential(self.body, self._neuron())

    def _neuron(self) -> SurrogateNeuron:
        c = self.config
        return SurrogateNeuron(
            c.dynamics, v_threshold=c.v_threshold, shape=c.surrogate, width=c.surrogate_width,
            detach_reset=c.detach_reset, train_leak=c.neuron == "plif",
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B K"]:
        segments = self.config.time_segments if torch.is_grad_enabled() else 1
        return in_segments(self.body, x, segments) if segments > 1 else self.body(x)


def skip(config: Config, task: Task) -> str | None:
    if catalog.has_feedback(task):
        return f"bptt trains feed-forward networks; {task.network} has feedback"
    if config.time_segments > task.time_steps:
        return f"bptt cannot cut {task.time_steps} time steps into {config.time_segments} (time_segments)"
    if config.norm == "merged" and config.time_segments == 1:
        return None
    normed = catalog.has_norm(task)
    if normed and config.time_segments > 1 and config.norm != "per_step":
        return f"bptt's time_segments want norm: per_step on {task.network}; other norms need all time steps at once"
    if not normed and config.norm != "merged":
        return f"bptt's norm: {config.norm} has no effect on {task.network}, which has no norm"
    return None


def build(config: Config, task: Task) -> nn.Module:
    return Network(config, task)


def train_step(net: nn.Module, x: Tensor, y: Tensor, config: Config, update: Update) -> StepOutput:
    scores = net(x)
    loss = _loss(scores, y, config)
    loss.backward()
    update()
    return StepOutput(loss.detach(), scores.detach().mean(0))


def _loss(scores: Tensor, y: Tensor, config: Config) -> Tensor:
    match config.loss:
        case "cross_entropy":
            return losses.cross_entropy(scores, y)
        case "mse":
            return losses.mse(scores, y)
        case "tet":
            assert config.tet_lambda is not None
            return losses.at_each_step(scores, y, mse_share=config.tet_lambda, level=config.tet_phi)
        case _:
            assert_never(config.loss)


@torch.no_grad()
def predict(net: nn.Module, x: Tensor, config: Config) -> Tensor:
    return torch.stack(list(running_rates(net(x))))
