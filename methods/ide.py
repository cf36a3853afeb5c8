"""IDE: implicit differentiation on the equilibrium state. Xiao et al., NeurIPS 2021 (arXiv:2109.14247).

The hidden layer of a feedback network is driven by F_x(x) and by its own spikes of the step before:

    U_t = leak * (U_{t-1} - theta s_{t-1}) + F_fb(s_{t-1}) + F_x(x_t),   s_t = [U_t >= theta]

Its firing rates a approach a fixed point a = f(a) = clamp((F_fb(a) + F_x(x)) / theta, 0, 1). `simulate` finds it
without a gradient, T steps; `represent` applies f once with autograd; backward solves v = J^T v + dL/da, J = df/da
at a, and sends v into f. Memory does not grow with T.
Departures from the released code: Broyden's first step has the right sign; running statistics move once a batch.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from harness import solvers
from harness.contract import MethodConfig, Search, StepOutput, Task, Update, setting
from harness.models import catalog
from harness.models.feedback import Currents
from harness.models.neurons import Dynamics, charge, fire, running_rates
from harness.solvers import Solver

SOURCE = "arXiv:2109.14247, released code"


class Config(MethodConfig):
    neuron: Literal["if", "lif"] = setting("lif", "neuron model", search=Search(choices=("if", "lif")))
    v_threshold: float = setting(2.0, "threshold theta", gt=0, source=SOURCE, search=Search(0.5, 4))
    leak: float | None = setting(
        None, "share of the potential left after a step; None: 0.95 (lif); the paper has 0.99 on CIFAR", gt=0, lt=1,
        source=SOURCE, search=Search(0.9, 0.999),
    )  # fmt: skip
    solver: Solver = setting("broyden", "of the linear equation in backward", source=SOURCE)
    tolerance: float = setting(1e-5, "relative residual at which the solver stops", gt=0)
    max_iterations: int = setting(30, "calls of J^T at most", ge=1, source=SOURCE)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("neuron", "lif") == "if" and given.get("leak") is not None:
            raise ValueError("leak belongs to neuron: lif; the IF neuron has none")
        paper = {"leak": 0.95} if given.get("neuron", "lif") == "lif" else {}
        return paper | {key: value for key, value in given.items() if value is not None}


@dataclass
class Report:
    """What one forward and backward pass tells about itself."""

    equilibrium_residual: Tensor
    """Mean of |a - f(a)|: how far the simulation is from its fixed point."""
    solver: solvers.Info | None = None

    def extras(self) -> dict[str, float]:
        assert self.solver is not None, "extras are read after backward"
        return {
            "solver_iterations": float(self.solver.iterations),
            "solver_relative_residual": self.solver.relative_residual,
            "equilibrium_residual": self.equilibrium_residual.item(),
        }


class Network(nn.Module):
    """A feedback network at its equilibrium: x (T, B, C, H, W) -> scores (B, K), and a report."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        self.config = config
        self.dynamics = Dynamics(leak=config.leak or 1.0)
        self.body = catalog.build(task)

    def forward(self, x: Float[Tensor, "T B C H W"]) -> tuple[Float[Tensor, "B K"], Report]:
        currents = self._currents(x)
        rates = deque(self.simulate(currents), maxlen=1)[0]
        represented = self.represent(currents, rates)
        report = Report(equilibrium_residual=(rates - represented.detach()).abs().mean())

        def solve(f: solvers.Function, v0: Tensor) -> Tensor:
            c = self.config
            v, report.solver = solvers.solve(
                c.solver, f, v0, tolerance=c.tolerance, max_iterations=c.max_iterations
            )  # fmt: skip
            return v

        at_equilibrium = solvers.implicit(represented, rates, lambda a: self.represent(currents, a), solve)
        return self.body.score(at_equilibrium), report  # type: ignore[operator]

    @torch.no_grad()
    def simulate(self, currents: Currents) -> Iterator[Tensor]:
        """The (weighted) firing rates a (B, ...) after each time step."""
        return running_rates(self._spikes(currents), self.dynamics.leak)

    @torch.no_grad()
    def _spikes(self, currents: Currents) -> Iterator[Tensor]:
        v, spikes = torch.zeros_like(currents.mean), torch.zeros_like(currents.mean)
        for t, current in enumerate(currents.steps()):
            charge(v, current, self.dynamics)
            if t > 0:
                v.add_(currents.feedback(spikes))
            fire(v, spikes, self.config.v_threshold, self.dynamics)
            yield spikes

    def represent(self, currents: Currents, rates: Tensor) -> Tensor:
        """f(a), with autograd."""
        return ((currents.feedback(rates) + currents.mean) / self.config.v_threshold).clamp(0, 1)

    @torch.no_grad()
    def scores(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B K"]:
        """The readout of the rates after each time step."""
        return torch.stack([self.body.score(a) for a in self.simulate(self._currents(x))])  # type: ignore[operator]

    def _currents(self, x: Tensor) -> Currents:
        return self.body.currents(x, self.dynamics.rate_weights(len(x)))  # type: ignore[operator]


def skip(config: Config, task: Task) -> str | None:
    return None if catalog.has_feedback(task) else f"ide trains networks with feedback; {task.network} has none"


def build(config: Config, task: Task) -> nn.Module:
    return Network(config, task)


def train_step(net: nn.Module, x: Tensor, y: Tensor, config: Config, update: Update) -> StepOutput:
    logits, report = net(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    update()
    return StepOutput(loss.detach(), logits.detach(), report.extras())


def predict(net: nn.Module, x: Tensor, config: Config) -> Tensor:
    return net.scores(x)  # type: ignore[operator]
