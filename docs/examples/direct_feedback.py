"""DFA: direct feedback alignment (Nøkland, NeurIPS 2016, arXiv:1609.01596) with spiking neurons.

The error e = dL/dlogits does not come back through the weights. Every hidden layer gets it through a random matrix B of
its own, drawn once and never trained, in place of the gradient from the layers above:

    dL/ds_t = e B / T        below it as in BPTT:  U_t = leak * U_{t-1} * (1 - s_{t-1}) + I_t,  s_t = [U_t >= theta]
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.contract import MethodConfig, Search, StepOutput, Task, Update, setting
from harness.models import catalog
from harness.models.neurons import at_least_float32, running_rates
from harness.models.surrogate import WIDTHS, Surrogate, heaviside


class Config(MethodConfig):
    v_threshold: float = setting(1.0, "threshold theta", gt=0, search=Search(0.3, 2))
    leak: float = setting(0.5, "share of the potential left after a step", gt=0, le=1, search=Search(0.2, 1))
    surrogate: Surrogate = setting("triangle", "shape of the surrogate derivative")


class Neuron(nn.Module):
    """A layer of neurons, I (T, B, ...) -> s (T, B, ...), which takes its gradient from `error` (B, K)."""

    def __init__(self, config: Config, classes: int) -> None:
        super().__init__()
        self.config, self.classes, self.error = config, classes, torch.empty(0)
        self.register_buffer("feedback", None)  # K N; N is not known before the first input

    def forward(self, current: Tensor) -> Tensor:
        c, emitted = self.config, []
        v = s = torch.zeros_like(at_least_float32(current[0]))
        for step in current:
            v = c.leak * v * (1 - s.detach()) + step
            s = heaviside(v - c.v_threshold, c.surrogate, WIDTHS[c.surrogate])
            emitted.append(s)
        if self.feedback is None:
            self.feedback = torch.randn(self.classes, s[0].numel()) / self.classes**0.5
        spikes = torch.stack(emitted)
        if spikes.requires_grad:
            spikes.register_hook(self._replace)
        return spikes

    def _replace(self, gradient: Tensor) -> Tensor:
        direct = self.error.to(gradient.dtype) @ self.feedback / len(gradient)  # B N
        return direct.to(gradient.dtype).view(gradient.shape[1:]).expand_as(gradient)


class Network(nn.Module):
    """An architecture of such neurons: x (T, B, C, H, W) -> scores (B, K)."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        self.body = catalog.build(task, lambda: Neuron(config, task.classes))
        with torch.no_grad():
            self.eval()(torch.zeros(1, 1, *task.shape))  # shows every neuron its shape
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.body(x).mean(0)
        if logits.requires_grad:
            logits.register_hook(self._tell)  # backward comes here first
        return logits

    def _tell(self, error: Tensor) -> None:
        for module in self.body.modules():
            if isinstance(module, Neuron):
                module.error = error


def skip(config: Config, task: Task) -> str | None:
    return f"dfa trains feed-forward networks; {task.network} has feedback" if catalog.has_feedback(task) else None


def build(config: Config, task: Task) -> nn.Module:
    return Network(config, task)


def train_step(net: nn.Module, x: Tensor, y: Tensor, config: Config, update: Update) -> StepOutput:
    logits = net(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    update()
    return StepOutput(loss.detach(), logits.detach())


def predict(net: nn.Module, x: Tensor, config: Config) -> Tensor:
    return torch.stack(list(running_rates(net.body(x))))  # T B K
