"""IDE: implicit differentiation on the equilibrium state. Xiao et al., NeurIPS 2021 (arXiv:2109.14247).

The firing rates a of a feedback network's last layer approach a fixed point a = f(a) (`models/equilibrium.py`).
`simulate` finds it without a gradient, T steps; `represent` applies f once, with autograd; backward solves
v = J^T v + dL/da, J = df/da at the simulated a, and sends v into f. Memory does not grow with T.
GMRES needs as few calls of J^T as Broyden's or Anderson's method and, to `tolerance: auto`, the least memory of them
(`benchmarks/ide_solvers.py`); the Neumann series diverges where training has let F_1, F_2, ... grow, which nothing
restricts.
Departures from the released code, whose defects have options: J of deep networks is taken at a, not at f(a); running
statistics move once a batch; Broyden's first step has the right sign.
"""

import warnings
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from harness import solvers
from harness.contract import MethodConfig, Search, StepOutput, Task, Update, setting
from harness.models import catalog, synced
from harness.models.convergence import equilibrium_residuals
from harness.models.currents import Currents
from harness.models.equilibrium import NormStatistics, released_events, represent, simulate
from harness.models.implicit import implicit
from harness.models.neurons import Dynamics, running_rates, weighted_mean

MEMORY = "constant"
EXACT = {"tolerance": 1e-12, "max_iterations": 300}
SOURCE = "arXiv:2109.14247, released code"
AUTO_SHARE, AUTO_LEAST, AUTO_MOST = 0.1, 1e-6, 0.1
"""A gradient at rates that are off by some part is off by about that part, however exactly it is solved."""


class Config(MethodConfig):
    neuron: Literal["if", "lif"] = setting("lif", "neuron model", search=Search(choices=("if", "lif")))
    v_threshold: float = setting(2.0, "threshold theta", gt=0, source=SOURCE, search=Search(0.5, 4))
    leak: float | None = setting(
        None, "share of the potential left after a step; None: 0.95 (lif); the paper has 0.99 on CIFAR", gt=0, lt=1,
        source=SOURCE, search=Search(0.9, 0.999),
    )  # fmt: skip
    solver: Literal["gmres", "anderson", "broyden", "neumann", "released_iter"] = setting(
        "gmres", "of v = J^T v + q in backward; released_iter ends at (2 I - J^T)^-1 q instead (N-MNIST's code)"
    )
    tolerance: Annotated[float, Field(gt=0)] | Literal["auto"] = setting(
        "auto", "relative residual at which the solver stops; auto: a tenth of ||a - f(a)|| / ||a||, at most 0.1"
    )
    max_iterations: int = setting(30, "calls of J^T at most", ge=1, source=SOURCE)
    norm_statistics: NormStatistics = setting(
        "running", "of batch norm between layers in the simulation, in training; f has the batch's", source=SOURCE
    )
    event_input: Literal["exact", "released"] = setting(
        "exact", "released: training on events as in the LIF code, that overwrites the last frame with the mean"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("neuron", "lif") == "if" and given.get("leak") is not None:
            raise ValueError("leak belongs to neuron: lif; the IF neuron has none")
        if given.get("neuron", "lif") == "if" and given.get("event_input") == "released":
            raise ValueError("event_input: released belongs to neuron: lif; the released IF code is exact")
        if given.get("solver") == "released_iter" and given.get("tolerance", "auto") != "auto":
            warnings.warn("solver: released_iter has no tolerance; it does max_iterations", stacklevel=2)
        paper = {"leak": 0.95} if given.get("neuron", "lif") == "lif" else {}
        return paper | {key: value for key, value in given.items() if value is not None}


class Network(nn.Module):
    """A feedback network at its equilibrium: x (T, B, C, H, W) -> scores (B, K), extras for backward to fill."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        self.config = config
        self.dynamics = Dynamics(leak=config.leak or 1.0)
        self.body: Any = catalog.build(task)

    def forward(self, x: Float[Tensor, "T B C H W"]) -> tuple[Float[Tensor, "B K"], dict[str, float]]:
        currents = self.currents(x)
        rates = deque(self._simulated(currents), maxlen=1)[0]
        extras: dict[str, float] = {}
        equilibrium, image = implicit(
            lambda a: represent(currents, a, self.config.v_threshold), rates, partial(self._solve, extras)
        )
        gap = rates - image
        size = torch.maximum(solvers.length(rates, self._summed), solvers.length(image, self._summed)).clamp_min(1e-30)
        measured = torch.stack([gap.abs().mean(), solvers.length(gap, self._summed) / size]).tolist()
        extras |= zip(("equilibrium_residual", "equilibrium_relative_residual"), measured, strict=True)
        return self.body.score(equilibrium), extras

    @property
    def _summed(self) -> solvers.Summed | None:
        """How workers solve one equation together, where batch norm makes one batch of all their samples."""
        return synced.summed if self.body.over_workers else None

    def _simulated(self, currents: Currents) -> Iterator[Tensor]:
        """The last layer's (weighted) firing rates (B, ...) after each time step."""
        c = self.config
        every = simulate(currents, c.v_threshold, self.dynamics, c.norm_statistics)
        return running_rates((spikes[-1] for spikes in every), self.dynamics.leak)

    def _solve(self, extras: dict[str, float], f: solvers.Function, q: Tensor) -> Tensor:
        c = self.config
        if c.solver == "released_iter":
            v, info = solvers.halved_iteration(f, q, iterations=c.max_iterations)
        else:
            worthwhile = min(max(AUTO_SHARE * extras["equilibrium_relative_residual"], AUTO_LEAST), AUTO_MOST)
            tolerance = worthwhile if c.tolerance == "auto" else c.tolerance
            v, info = solvers.solve(
                c.solver, f, torch.zeros_like(q), residual=q, tolerance=tolerance, max_iterations=c.max_iterations,
                summed=self._summed,
            )  # fmt: skip
            extras["solver_tolerance"] = tolerance
        extras |= {"solver_iterations": float(info.iterations), "solver_relative_residual": info.relative_residual}
        return v

    @torch.no_grad()
    def scores(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B K"]:
        """The readout of the rates after each time step."""
        return torch.stack([self.body.score(a) for a in self._simulated(self.currents(x))])

    def currents(self, x: Tensor) -> Currents:
        """What flows in the network during one batch."""
        if x.stride(0) == 0:
            return self.body.currents(x[0], x)
        mean = weighted_mean(x, self.dynamics.rate_weights(len(x)))
        if self.config.event_input == "released" and self.body.takes_batch_statistics:
            mean, frames, reference = released_events(x, mean, self.dynamics.leak)
            return self.body.currents(mean, frames, reference=reference)
        return self.body.currents(mean, x)


def skip(config: Config, task: Task) -> str | None:
    if not catalog.has_feedback(task):
        return f"ide trains networks with feedback; {task.network} has none"
    if config.norm_statistics == "batch" and len(catalog.config(task).widths) == 1:
        return f"ide: norm_statistics: batch is about norms between layers; {task.network} has one layer"
    if config.event_input == "released" and not task.temporal:
        return f"ide: event_input: released is about event data; {task.network} gets still images here"
    return None


def scores_differ(config: Config) -> str | None:
    released = "event_input: released trains on what the released code makes of events, and predicts on the events"
    return released if config.event_input == "released" else None


def build(config: Config, task: Task) -> nn.Module:
    return Network(config, task)


def train_step(net: nn.Module, x: Tensor, y: Tensor, config: Config, update: Update) -> StepOutput:
    logits, extras = net(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    update()
    return StepOutput(loss.detach(), logits.detach(), extras)


def predict(net: nn.Module, x: Tensor, config: Config) -> Tensor:
    return net.scores(x)  # type: ignore[operator]


@torch.no_grad()
def convergence(net: Any, x: Tensor, config: Config) -> dict[str, dict[str, Tensor]]:
    residuals = equilibrium_residuals(net.currents(x), config.v_threshold, net.dynamics)
    return {"equilibrium_residual": residuals}
