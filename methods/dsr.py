"""DSR: differentiation on spike representation. Meng et al., CVPR 2022 (arXiv:2205.00459).

The forward pass is the true spiking network over T steps; the gradient is that of the firing rates, which follow a
clamp of their input: o = clamp(I, 0, theta) for IF, clamp(I / tau, 0, theta / dt) for LIF. A neuron fires at
alpha * theta, resets by theta, and learns theta. The equations are in `models/rates.py`.

`gradient: unrolled` is the authors' computation, whose memory grows with T. `gradient: representation` keeps rates:
the gradient of the paper's theory, equal to theirs but for a covariance over time in weights below a batch norm.
Departures: dropout has one mask for all time steps; theta's gradient is averaged over workers, not summed.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from harness.contract import MethodConfig, Search, StepOutput, Task, Update, setting
from harness.models import catalog
from harness.models.layers import BatchNorm
from harness.models.neurons import Dynamics, running_rates
from harness.models.rates import RateCode, RateNeuron
from harness.models.streams import ALL, Streams, of_input

PAPER: dict[Any, dict[str, float]] = {
    "if": {"v_threshold": 6.0, "alpha": 0.5, "threshold_bound": 0.01},
    "lif": {"v_threshold": 0.3, "alpha": 0.3, "threshold_bound": 0.0005, "tau": 1.0, "dt": 0.05},
}
SOURCE = "arXiv:2205.00459, released code"


class Config(MethodConfig):
    neuron: Literal["if", "lif"] = setting("if", "neuron model", search=Search(choices=("if", "lif")))
    v_threshold: float = setting(
        None, "initial threshold theta; None: 6 (if), 0.3 (lif)", gt=0, source=SOURCE, search=Search(0.1, 10, log=True)
    )
    alpha: float = setting(
        None, "fires at alpha * theta; None: 0.5 (if), 0.3 (lif)", gt=0, le=1, source=SOURCE, search=Search(0.2, 1)
    )
    tau: float | None = setting(
        None, "membrane time constant; None: 1 (lif)", unit="time", gt=0, source=SOURCE, search=Search(0.5, 2)
    )
    dt: float | None = setting(
        None, "length of a step, shorter for larger T; None: 0.05 (lif)", unit="time", gt=0, source=SOURCE,
        search=Search(0.02, 0.2, log=True),
    )  # fmt: skip
    train_threshold: bool = setting(True, "learn one threshold a layer", source=SOURCE)
    threshold_bound: float = setting(
        None, "theta never falls below; None: 0.01 (if), 0.0005 (lif)", gt=0, source=SOURCE
    )
    threshold_gradient: Literal["released", "exact"] = setting(
        "released",
        "lif: theta's gradient has the factor dt as in the authors' code, or the clamp's 1 / dt",
        source=SOURCE,
    )
    threshold_gradient_scale: float = setting(1.0, "theta's gradient times this; ImageNet: 0.001", gt=0, source=SOURCE)
    readout: Literal["spiking", "linear"] = setting(
        "spiking",
        "scores: rate of K neurons behind a batch norm (paper), or mean of the last linear layer",
        source=SOURCE,
    )
    gradient: Literal["representation", "unrolled"] = setting("representation", "of rates, or through all T steps")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: dict[str, Any]) -> dict[str, Any]:
        neuron = given.get("neuron", "if")
        if neuron == "if" and (given.get("tau") is not None or given.get("dt") is not None):
            raise ValueError("tau and dt belong to neuron: lif; the IF neuron has neither")
        return PAPER.get(neuron, {}) | {key: value for key, value in given.items() if value is not None}

    @property
    def code(self) -> RateCode:
        """The neuron, as `models/rates.py` wants it."""
        if self.tau is None or self.dt is None:
            return RateCode(Dynamics(alpha=self.alpha), threshold_gain=self.threshold_gradient_scale)
        beta = float(torch.tensor(-self.dt / self.tau, dtype=torch.float64).exp())
        gain = self.dt if self.threshold_gradient == "released" else 1 / self.dt
        return RateCode(
            Dynamics(leak=beta, gain=1 - beta, alpha=self.alpha),
            amplitude=1 / self.dt, slope=1 / self.tau, threshold_gain=gain * self.threshold_gradient_scale,
        )  # fmt: skip


class Network(nn.Module):
    """An architecture with rate neurons and DSR's readout: x (T, B, C, H, W) -> scores (B, K)."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        self.config, self.code = config, config.code
        self.body = catalog.build(task, self._neuron)
        spiking = config.readout == "spiking"
        self.readout = nn.Sequential(BatchNorm(task.classes, exact=True), self._neuron()) if spiking else nn.Identity()

    def _neuron(self) -> RateNeuron:
        c = self.config
        return RateNeuron(
            self.code, v_threshold=c.v_threshold, bound=c.threshold_bound, train_threshold=c.train_threshold
        )

    def forward(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "B K"]:
        if not self.training:
            return self.scores(x)[-1]
        weights = self.code.dynamics.rate_weights(len(x))
        weighted = self.config.readout == "spiking" and self.code.weighted
        if self.config.gradient == "unrolled":
            out = self.readout(self.body(x))  # T B K
            return torch.tensordot(out.new_tensor(weights), out, 1) if weighted else out.mean(0)
        rates = self.readout(self.body(self._streams(x))).rates()
        if weighted:
            # Unrolled, the last neuron weights time twice: on the way from the scores and on the way to its input.
            kappa = len(x) * sum(weight**2 for weight in weights)
            return rates.weighted + (kappa - 1) * (rates.weighted - rates.weighted.detach())
        if rates.plain is None:
            return rates.weighted
        return rates.plain + (rates.weighted - rates.weighted.detach())

    @torch.no_grad()
    def scores(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B K"]:
        """The rate of the readout after each time step."""
        steps = self.readout(self.body(self._streams(x))).every_step(ALL)(ALL, 0)
        leak = self.code.dynamics.leak if self.config.readout == "spiking" else 1.0
        return torch.stack(list(running_rates(steps, leak)))

    def _streams(self, x: Tensor) -> Streams:
        return of_input(x, self.code.dynamics.rate_weights(len(x)) if self.code.weighted else None)


def skip(config: Config, task: Task) -> str | None:
    if catalog.has_feedback(task):
        return f"dsr trains feed-forward networks; {task.network} has feedback"
    if not catalog.is_linear(task):
        return f"dsr needs linear layers between neurons; {task.network} has max pooling or multiplies spikes"
    return None


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
