"""The contenders of `peers.py`: one convolutional network in this harness, in SpikingJelly and in snnTorch.

Each contender is a function of (T, shapes) that returns the network's parameters in order and a training step. Run as
a script, this file serves one of them to `peers.py`: a line in, a line of JSON out. It needs torch and the contender's
own package only, since each runs in its own Python environment.

The network: three stages of two [3x3 convolution -> batch norm -> LIF], each followed by 2x2 average pooling; then
linear. LIF with leak 0.5, threshold 1, sigmoid surrogate of slope 4; reset without gradient, to 0 under BPTT and by the
threshold in the online methods. (snnTorch subtracts something else where a potential is twice the threshold.)
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = ((64, 64), (128, 128), (256, 256))
SHAPE, CLASSES, BATCH_SIZE = (3, 32, 32), 10, 16
MSE_SHARE = 0.05

Step = Callable[[Tensor, Tensor], Tensor]
"""(x (T, B, C, H, W), y (B,)) -> scores (B, K), the mean over time, having made and thrown away all gradients."""


def ours(method: str, time_steps: int) -> tuple[nn.Module, Step]:
    from harness.contract import Task
    from harness.plugins import load

    module = load("methods", method)
    choice = {"reset": "hard", "detach_reset": True} if method == "bptt" else {"mse_share": MSE_SHARE}
    config = module.Config(surrogate="sigmoid", leak=0.5, **choice)
    net = module.build(config, Task(SHAPE, CLASSES, time_steps, True, "convnet", {"stages": STAGES})).train()

    def step(x: Tensor, y: Tensor) -> Tensor:
        return module.train_step(net, x, y, config, lambda: net.zero_grad(set_to_none=True)).logits

    return net, step


def spikingjelly(method: str, time_steps: int) -> tuple[nn.Module, Step]:
    from spikingjelly.activation_based import (  # type: ignore[import-not-found]
        functional,
        layer,
        neuron,
        surrogate,
    )

    mode = "m" if method == "bptt" else "s"
    options: dict[str, Any] = {"tau": 2.0, "decay_input": False, "step_mode": mode}
    options["v_reset"] = 0.0 if method == "bptt" else None
    kinds = {"bptt": neuron.LIFNode, "ottt": neuron.OTTTLIFNode, "sltt": neuron.SLTTLIFNode}
    layers: list[nn.Module] = []
    inputs = SHAPE[0]
    for stage in STAGES:
        for channels in stage:
            layers += [
                layer.Conv2d(inputs, channels, 3, padding=1, bias=False, step_mode=mode),
                layer.BatchNorm2d(channels, step_mode=mode),
                kinds[method](surrogate_function=surrogate.Sigmoid(alpha=4.0), detach_reset=True, **options),
            ]
            inputs = channels
        layers.append(layer.AvgPool2d(2, step_mode=mode))
    layers += [layer.Flatten(step_mode=mode), layer.Linear(inputs * 16, CLASSES, step_mode=mode)]
    net = (layer.OTTTSequential if method == "ottt" else nn.Sequential)(*layers).train()

    def bptt(x: Tensor, y: Tensor) -> Tensor:
        logits = net(x).mean(0)
        F.cross_entropy(logits, y).backward()
        return logits

    def online(x: Tensor, y: Tensor) -> Tensor:
        total = torch.zeros(())
        target = F.one_hot(y, CLASSES).float() if method == "ottt" else torch.ones(len(y), CLASSES)
        for now in x:
            scores = net(now)
            loss = (1 - MSE_SHARE) * F.cross_entropy(scores, y) + MSE_SHARE * F.mse_loss(scores, target)
            (loss / len(x)).backward()
            total = total + scores.detach()
        return total / len(x)

    def step(x: Tensor, y: Tensor) -> Tensor:
        logits = bptt(x, y) if method == "bptt" else online(x, y)
        functional.reset_net(net)
        net.zero_grad(set_to_none=True)
        return logits.detach()

    return net, step


def snntorch(method: str, time_steps: int) -> tuple[nn.Module, Step]:
    """Its neurons go through time in a loop; the other layers take all time steps at once, which is faster."""
    from snntorch import Leaky, surrogate

    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neuron = Leaky(
                beta=0.5, threshold=1.0, spike_grad=surrogate.sigmoid(slope=4), reset_mechanism="zero",
                reset_delay=False,
            )  # fmt: skip

        def forward(self, rows: Tensor) -> Tensor:
            spikes, v = [], self.neuron.reset_mem()
            for current in rows.unflatten(0, (time_steps, -1)):
                spike, v = self.neuron(current, v)
                spikes.append(spike)
            return torch.cat(spikes)

    assert method == "bptt", "snnTorch has no online methods"
    layers: list[nn.Module] = []
    inputs = SHAPE[0]
    for stage in STAGES:
        for channels in stage:
            layers += [nn.Conv2d(inputs, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), Unrolled()]
            inputs = channels
        layers.append(nn.AvgPool2d(2))
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * 16, CLASSES)).train()

    def step(x: Tensor, y: Tensor) -> Tensor:
        logits = net(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(0)
        F.cross_entropy(logits, y).backward()
        net.zero_grad(set_to_none=True)
        return logits.detach()

    return net, step


CONTENDERS = {"ours": ours, "spikingjelly": spikingjelly, "snntorch": snntorch}


def same_weights(net: nn.Module, channels_last: bool) -> None:
    """Give the parameters, in order, values that are the same in every environment."""
    generator = torch.Generator().manual_seed(1)
    for name, p in net.named_parameters():
        if p.dim() > 1:
            p.data.copy_(torch.randn(p.shape, generator=generator) * (2 / p[0].numel() ** 0.5))
        elif name.endswith("bias"):
            p.data.zero_()
    if channels_last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def peak_bytes(run: Callable[[], Any]) -> int:
    """Peak resident memory of a call above what the process held before."""
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    Path("/proc/self/clear_refs").write_text("5")
    run()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")) - before


def serve(name: str, method: str, time_steps: int, channels_last: bool) -> None:
    """Answer 'step' with its seconds of CPU time, 'peak' with the bytes of two, 'scores' with its scores."""
    net, step = CONTENDERS[name](method, time_steps)
    same_weights(net, channels_last)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(time_steps, BATCH_SIZE, *SHAPE, generator=generator)
    y = torch.arange(BATCH_SIZE) % CLASSES
    for line in sys.stdin:
        match line.strip():
            case "step":
                started = time.process_time()
                step(x, y)
                answer: Any = time.process_time() - started
            case "scores":
                answer = step(x, y).tolist()
            case "peak":
                answer = peak_bytes(lambda: (step(x, y), step(x, y)))
            case asked:
                raise SystemExit(f"asked for {asked!r}")
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    from harness.allocator import keep_memory

    torch.set_num_threads(1)
    if sys.argv[5] == "keep":
        keep_memory()
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "channels_last")
