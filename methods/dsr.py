"""DSR: differentiation on spike representation. Meng et al., CVPR 2022 (arXiv:2205.00459).

The forward pass is the true spiking network over T steps; the gradient is that of the firing rates, which follow a
clamp of their input: o = clamp(I, 0, theta) for IF, clamp(I / tau, 0, theta / dt) for LIF. A neuron fires at
alpha * theta, resets by theta, and learns theta. The equations are in `models/rates.py` and `models/rate_norm.py`.

`gradient: unrolled` is exactly that of the authors' computation through all T steps. `representation` is that of the
paper's theory, which lacks a covariance over time in weights below a batch norm, and takes less time. Neither keeps
activations of T steps.

The released code departs from the theory in three places, for LIF only; `exact` is the theory:
- `slope`: of the clamp; 1 / tau as released, where the LIF neuron's true one is (1 - beta) / dt, 2 to 5 % less;
- `readout_factor`: scores are weighted in time twice on the way back, so all gradients have a factor T sum_t w_t^2;
- `threshold_gradient`: theta's has the factor dt where the clamp's upper edge, theta / dt, has the derivative 1 / dt.

Settings left open follow T as in the published recipes: LIF of T < 10 has dt = 0.1 and alpha = 0.5 (recipe of T = 5),
from T = 10 on dt = 0.05 and alpha = 0.3 (recipe of T = 20); theta = 6 dt, so that a spike emits 6, its bound 0.01 dt.
Departures: dropout has one mask for all time steps; theta's gradient is averaged over workers, not summed; calibration
counts training images, all layers alike (the authors take the first validation images, the last batch above all).
"""

import copy
import math
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from harness.contract import MethodConfig, Search, StepOutput, Task, Update, setting
from harness.models import catalog, transfer
from harness.models.analog import averaged
from harness.models.calibration import percentiles
from harness.models.convergence import representation_errors
from harness.models.layers import BatchNorm
from harness.models.neurons import Dynamics, running_rates
from harness.models.rate_norm import Covariance
from harness.models.rates import RateCode, RateNeuron
from harness.models.streams import ALL, Streams, of_input

MEMORY = "constant"
SOURCE = "arXiv:2205.00459, released code"
AMPLITUDE, BOUND = 6.0, 0.01
"""Threshold and its bound in the published recipes, in units of dt for LIF."""
LONG = 10
"""Time steps from which on LIF has the settings of T = 20; below, those of T = 5."""

Form = Literal["released", "exact"]


class Config(MethodConfig):
    neuron: Literal["if", "lif"] = setting("if", "neuron model", search=Search(choices=("if", "lif")))
    v_threshold: float | None = setting(
        None, "initial threshold theta; None: 6 (if), 6 dt (lif)", gt=0, source=SOURCE, search=Search(0.1, 10, log=True)
    )
    alpha: float | None = setting(
        None, "fires at alpha * theta; None: 0.5, but 0.3 for lif from T = 10 on", gt=0, le=1, source=SOURCE,
        search=Search(0.2, 1),
    )  # fmt: skip
    tau: float | None = setting(
        None, "lif: membrane time constant; None: 1", unit="time", gt=0, source=SOURCE, search=Search(0.5, 2)
    )
    dt: float | None = setting(
        None, "lif: length of a step; None: 0.1, but 0.05 from T = 10 on", unit="time", gt=0, source=SOURCE,
        search=Search(0.02, 0.2, log=True),
    )  # fmt: skip
    train_threshold: bool = setting(True, "learn one threshold a layer", source=SOURCE)
    threshold_bound: float | None = setting(
        None, "theta never falls below; None: 0.01 (if), 0.01 dt (lif)", gt=0, source=SOURCE
    )
    threshold_gradient: Form = setting("released", "lif: theta's gradient times dt, or exact: 1 / dt", source=SOURCE)
    threshold_gradient_scale: float = setting(1.0, "theta's gradient times this; ImageNet: 0.001", gt=0, source=SOURCE)
    threshold_weight_decay: float | None = setting(
        None, "weight decay of theta; None: that of the weights; ImageNet: 0", ge=0, source=SOURCE
    )
    slope: Form = setting("released", "lif: slope of the clamp 1 / tau, or exact: (1 - beta) / dt", source=SOURCE)
    readout: Literal["spiking", "linear"] = setting(
        "spiking", "scores: rate of K neurons behind a batch norm (paper), or mean of the last linear layer",
        source=SOURCE,
    )  # fmt: skip
    readout_factor: Form = setting("released", "lif: gradients times T sum_t w_t^2, or exact: 1", source=SOURCE)
    gradient: Literal["representation", "unrolled"] = setting("representation", "of rates, or of all T steps, exactly")
    calibration_percentile: float = setting(
        99.9, "after `start`, theta is this percentile of the ReLU network's activations", gt=0, le=100, source=SOURCE
    )
    calibration_batches: int = setting(5, "batches that the percentile is taken over", ge=1, source=SOURCE)

    @model_validator(mode="after")
    def _refuse_what_has_no_effect(self) -> Self:
        if self.neuron == "if" and (self.tau is not None or self.dt is not None):
            raise ValueError("tau and dt belong to neuron: lif; the IF neuron has neither")
        for name in ("slope", "readout_factor", "threshold_gradient"):
            if self.neuron == "if" and getattr(self, name) == "exact":
                raise ValueError(f"{name} belongs to neuron: lif; what is released for IF is exact")
        if self.readout == "linear" and self.readout_factor == "exact":
            raise ValueError("readout_factor belongs to readout: spiking; a linear one has the factor 1")
        learning = (self.threshold_gradient, self.threshold_gradient_scale, self.threshold_weight_decay)
        if not self.train_threshold and learning != ("released", 1.0, None):
            raise ValueError("train_threshold: false leaves threshold_gradient, its scale and decay without effect")
        return self


def resolve(config: Config, task: Task) -> Config:
    """The settings with those that were left open filled in from the recipe of the task's T."""
    long, filled = task.time_steps >= LONG, {"alpha": 0.5}
    dt = 1.0
    if config.neuron == "lif":
        dt = config.dt or (0.05 if long else 0.1)
        filled = {"alpha": 0.3 if long else 0.5, "tau": 1.0, "dt": dt}
    filled |= {"v_threshold": round(AMPLITUDE * dt, 12), "threshold_bound": round(BOUND * dt, 12)}
    return Config.model_validate(
        filled | {key: value for key, value in config.model_dump().items() if value is not None}
    )


def rate_code(config: Config) -> RateCode:
    """The neuron of a resolved config, as `models/rates.py` wants it."""
    assert config.alpha is not None, "resolve the config first"
    scale = config.threshold_gradient_scale
    if config.tau is None or config.dt is None:
        return RateCode(Dynamics(alpha=config.alpha), threshold_gain=scale)
    beta = math.exp(-config.dt / config.tau)
    return RateCode(
        Dynamics(leak=beta, gain=1 - beta, alpha=config.alpha),
        amplitude=1 / config.dt,
        slope=1 / config.tau if config.slope == "released" else (1 - beta) / config.dt,
        threshold_gain=scale * (config.dt if config.threshold_gradient == "released" else 1 / config.dt),
    )


class Network(nn.Module):
    """An architecture with rate neurons and DSR's readout: x (T, B, C, H, W) -> scores (B, K)."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        self.config = resolve(config, task)
        self.code = rate_code(self.config)
        self.body = catalog.build(task, self._neuron, norm=self._norm)
        self.readout: nn.Module = nn.Identity()
        if config.readout == "spiking":
            # With K outputs, the covariance costs nothing.
            covariance: Covariance = "required" if self.config.gradient == "unrolled" else "if known"
            self.readout = nn.Sequential(BatchNorm(task.classes, covariance=covariance), self._neuron())

    def _neuron(self) -> RateNeuron:
        c = self.config
        assert c.v_threshold is not None
        assert c.threshold_bound is not None
        return RateNeuron(
            self.code, v_threshold=c.v_threshold, bound=c.threshold_bound, train_threshold=c.train_threshold
        )

    def _norm(self, channels: int, *, branches: int = 1) -> BatchNorm:
        return BatchNorm(channels, covariance="required" if self.config.gradient == "unrolled" else "left out")

    def forward(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "B K"]:
        if not self.training:
            return self.scores(x)[-1]
        rates = self.readout(self.body(self._streams(x))).rates()
        if rates.plain is None:
            return rates.weighted
        linked = rates.weighted - rates.weighted.detach()
        if self.config.readout == "linear":
            return rates.plain + linked
        # Unrolled, the last neuron weights time twice: on the way from the scores and on the way to its input.
        kappa = len(x) * sum(weight**2 for weight in self.code.dynamics.rate_weights(len(x)))
        return rates.weighted.detach() + (kappa if self.config.readout_factor == "released" else 1.0) * linked

    @torch.no_grad()
    def scores(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B K"]:
        """The rate of the readout after each time step."""
        steps = self.readout(self.body(self._streams(x))).every_step(ALL)(ALL, 0)
        leak = self.code.dynamics.leak if self.config.readout == "spiking" else 1.0
        return torch.stack(list(running_rates(steps, leak)))

    def _streams(self, x: Tensor) -> Streams:
        return of_input(x, self.code.dynamics.rate_weights(len(x)))

    def sites(self) -> dict[str, RateNeuron]:
        """Its layers of neurons by name, in the order in which they were built."""
        return {name: module for name, module in self.named_modules() if isinstance(module, RateNeuron)}


def skip(config: Config, task: Task) -> str | None:
    if catalog.has_feedback(task):
        return f"dsr trains feed-forward networks; {task.network} has feedback"
    if not catalog.is_linear(task):
        return f"dsr needs linear layers between neurons; {task.network} has max pooling or multiplies spikes"
    if config.gradient == "unrolled":
        with torch.device("meta"):
            try:
                Network(config, task).eval()(torch.empty(1, 1, *task.shape))
            except ValueError as error:
                return f"dsr cannot unroll {task.network}: {error}"
    return None


def build(config: Config, task: Task) -> nn.Module:
    return Network(config, task)


def start(net: Network, weights: Mapping[str, Tensor], batches: Iterable[Tensor], config: Config) -> None:
    """Take over the weights of a network of ReLUs, and thresholds from what these put out.

    Raises ValueError that names every weight without a counterpart.
    """
    sites = net.sites()
    transfer.load(net, weights, own={f"{name}.v_threshold" for name in sites})
    reference = copy.deepcopy(net)
    for name in sites:
        reference.set_submodule(name, nn.ReLU())
    relus = [reference.get_submodule(name) for name in sites]
    network, some = nn.Sequential(reference.body, reference.readout), islice(batches, config.calibration_batches)
    found = percentiles(network, relus, map(averaged, some), config.calibration_percentile)
    for neuron, value in zip(sites.values(), found, strict=True):
        neuron.v_threshold.data.fill_(value / net.code.amplitude).clamp_(min=neuron.bound)


def param_groups(net: nn.Module, config: Config) -> list[dict[str, Any]]:
    """All parameters, thresholds apart if they have a weight decay of their own."""
    thresholds: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, p in net.named_parameters():
        if p.requires_grad:
            (thresholds if name.endswith("v_threshold") else others).append(p)
    if config.threshold_weight_decay is None:
        return [{"params": [*others, *thresholds]}]
    return [{"params": others}, {"params": thresholds, "weight_decay": config.threshold_weight_decay}]


def train_step(net: nn.Module, x: Tensor, y: Tensor, config: Config, update: Update) -> StepOutput:
    logits = net(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    update()
    return StepOutput(loss.detach(), logits.detach())


def predict(net: nn.Module, x: Tensor, config: Config) -> Tensor:
    return net.scores(x)  # type: ignore[operator]


def convergence(net: nn.Module, x: Tensor, config: Config) -> dict[str, dict[str, Tensor]]:
    errors = representation_errors(lambda: predict(net, x, config), net.sites())  # type: ignore[operator]
    return {"representation_error": errors}
