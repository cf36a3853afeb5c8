"""A layer of surrogate neurons alone: how near its forward and backward pass come to the memory's bandwidth.

Command: python benchmarks/neurons.py

LIF neurons, soft reset, triangle; currents of 64 channels of 32x32 pixels, batch 32, T = 8, one thread, memory kept as
trials keep it. A time step of a neuron moves 12 bytes each way: forward reads a current and writes a potential and a
spike, backward reads a gradient and a potential and writes a gradient. The bandwidth is that of a copy of the same
tensor into memory that is there, taken in turn with the passes. `loop` is the plain loop, `compiled` is
`train.compile`; on a CUDA card the Triton kernel is measured too. About a minute.
"""

import time
from collections.abc import Callable
from statistics import median

import report
import torch

from harness import allocator, kernels
from harness.models.neurons import Dynamics
from harness.models.surrogate_neuron import SurrogateNeuron

SHAPE = (8, 32, 64, 32, 32)
"""T, B, C, H, W."""
BYTES = 12
REPETITIONS = 15
LEAST_SHARE = 60.0


def passes(device: str, *, compile: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    """Functions that run the layer forwards, and backwards."""
    neuron = SurrogateNeuron(
        Dynamics(leak=0.5), v_threshold=1.0, shape="triangle", width=1.0, detach_reset=False
    )  # fmt: skip
    neuron.compile_loop = compile
    current = torch.randn(SHAPE, device=device).requires_grad_()
    spikes = neuron(current)
    gradient = torch.randn_like(spikes)
    return lambda: neuron(current.detach()), lambda: torch.autograd.grad(
        spikes, current, gradient, retain_graph=True
    )  # fmt: skip


def seconds(call: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def on(device: str, kinds: dict[str, bool]) -> list[report.Measure]:
    """Measures of each kind of pass on a device, in turn with a copy."""
    source = torch.randn(SHAPE, device=device)
    target = torch.empty_like(source)
    calls: dict[str, Callable[[], object]] = {"copy": lambda: target.copy_(source)}
    for kind, compile in kinds.items():
        calls[f"{kind}, forward"], calls[f"{kind}, backward"] = passes(device, compile=compile)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(1 + REPETITIONS):  # the first is the warm-up
        for name, call in calls.items():
            elapsed = seconds(call, device)
            if repetition:
                taken[name].append(elapsed)
    copied = [2 * source.element_size() * source.numel() / elapsed / 1e9 for elapsed in taken.pop("copy")]
    found = [report.measure(f"{device}: copy", median(copied), "GB/s")]
    for name, times in taken.items():
        moved = [BYTES * source.numel() / elapsed / 1e9 for elapsed in times]
        shares = [100 * one / other for one, other in zip(moved, copied, strict=True)]
        best = not name.startswith("loop")
        found += [
            report.measure(f"{device}: {name}", source.numel() / median(times) / 1e9, "10^9 neuron steps/s"),
            report.measure(
                f"{device}: {name}, share of the bandwidth", median(shares), "%", at_least=LEAST_SHARE if best else None
            ),
        ]
    return found


def main() -> None:
    """Measure, print, write."""
    allocator.keep_memory()
    torch.set_num_threads(1)
    measures = on("cpu", {"loop": False, "compiled": True})
    if torch.cuda.is_available():
        assert kernels.kernel(torch.zeros(1, device="cuda"), compile=False), "no Triton"
        measures += on("cuda", {"Triton": False})
    report.write("neurons", measures, "python benchmarks/neurons.py")


if __name__ == "__main__":
    main()
