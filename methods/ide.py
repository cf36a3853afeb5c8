"""IDE: implicit differentiation on the equilibrium state. Xiao et al., NeurIPS 2021 (arXiv:2109.14247).

The hidden layer of a feedback network is driven by F_x(x) and by its own spikes of the step before:

    U_t = leak * (U_{t-1} - theta s_{t-1}) + F_fb(s_{t-1}) + F_x(x_t),   s_t = [U_t >= theta]

Its firing rates a approach a fixed point a = f(a) = clamp((F_fb(a) + F_x(x)) / theta, 0, 1). `simulate` finds it
without a gradient, T steps; `represent` applies f once with autograd; backward solves v = J^T v + dL/da, J = df/da
at a, and sends v into f. Memory does not grow with T.
Departures from the released code: Broyden's first step has the right sign; running statistics move once a batch.
"""

from collections import deque
from collections.abc import Callable, Iterator
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
from harness.models.neurons import Dynamics, at_least_float32, charge, fire, running_rates
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
        self.body: Any = catalog.build(task)  # a FeedbackNet

    def forward(self, x: Float[Tensor, "T B C H W"]) -> tuple[Float[Tensor, "B K"], Report]:
        loop = self._loop(x)
        rates = deque(loop.simulate(x), maxlen=1)[0]
        represented = loop.represent(rates, loop.drive, loop.weight)
        report = Report(equilibrium_residual=(rates - represented.detach()).abs().mean())

        def adjoint(q: Tensor) -> Tensor:
            v, report.solver = loop.adjoint(rates, q, self.config)
            return v

        return self.body.score(_Implicit.apply(represented, rates, adjoint)), report

    @torch.no_grad()
    def scores(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B K"]:
        """The readout of the rates after each time step."""
        return torch.stack([self.body.score(rates) for rates in self._loop(x).simulate(x)])

    def _loop(self, x: Tensor) -> "_Loop":
        body = self.body
        static = x.stride(0) == 0
        mean_frame = x[0] if static else torch.tensordot(x.new_tensor(self.dynamics.rate_weights(len(x))), x, 1)
        mean_current = at_least_float32(body.current(mean_frame))
        mask = body.mask(x.shape[1])
        drive = _masked(body.normalise(mean_current), mask)
        return _Loop(
            body, self.dynamics, self.config.v_threshold, static, body.feedback(), drive, mean_current.detach(),
            mask, body.mask(x.shape[1]),
        )  # fmt: skip


@dataclass(frozen=True)
class _Loop:
    """The network with what stays the same over a batch's time steps: dropout masks, feedback weight, mean input."""

    body: Any
    dynamics: Dynamics
    theta: float
    static: bool
    weight: Tensor
    drive: Tensor
    """F_x of the mean input, (B, ...)."""
    mean_current: Tensor
    mask: Tensor | None
    feedback_mask: Tensor | None

    @torch.no_grad()
    def simulate(self, x: Tensor) -> Iterator[Tensor]:
        """The (weighted) average rates after each time step, (B, ...)."""
        return running_rates(self._spikes(x), self.dynamics.leak)

    @torch.no_grad()
    def _spikes(self, x: Tensor) -> Iterator[Tensor]:
        v, spikes = torch.zeros_like(self.drive), torch.zeros_like(self.drive)
        for t, frame in enumerate(x):
            charge(v, self.drive if self.static else self._frame_current(frame), self.dynamics)
            if t > 0:
                v.add_(self._feed_back(spikes, self.weight))
            fire(v, spikes, self.theta, self.dynamics)
            yield spikes

    def _frame_current(self, frame: Tensor) -> Tensor:
        return _masked(self.body.normalise_step(self.body.current(frame), self.mean_current), self.mask)

    def _feed_back(self, activity: Tensor, weight: Tensor) -> Tensor:
        return _masked(self.body.feed_back(activity, weight), self.feedback_mask)

    def represent(self, rates: Tensor, drive: Tensor, weight: Tensor) -> Tensor:
        """f(a), with autograd."""
        return ((self._feed_back(rates, weight) + drive) / self.theta).clamp(0, 1)

    def adjoint(self, rates: Tensor, q: Tensor, config: Config) -> tuple[Tensor, solvers.Info]:
        """v = J^T v + q, with J = df/da at the simulated rates."""
        with torch.enable_grad():
            point = rates.detach().requires_grad_()
            image = self.represent(point, self.drive.detach(), self.weight.detach())

        def transposed(v: Tensor) -> Tensor:
            return torch.autograd.grad(image, point, v, retain_graph=True)[0] + q

        return solvers.solve(
            config.solver, transposed, torch.zeros_like(q),
            tolerance=config.tolerance, max_iterations=config.max_iterations,
        )  # fmt: skip


class _Implicit(torch.autograd.Function):
    """f(a) -> a: the value is the simulated rate, the gradient is solved for before it goes on into f."""

    @staticmethod
    def forward(ctx: Any, represented: Tensor, rates: Tensor, adjoint: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.adjoint = adjoint
        return rates.view_as(rates)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.adjoint(gradients[0]), None, None


def _masked(current: Tensor, mask: Tensor | None) -> Tensor:
    return current if mask is None else current * mask


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
