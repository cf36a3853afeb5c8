"""DSR's two gradients: seconds and peak memory of a training step against T.

Command: python benchmarks/dsr_memory.py

A small convolutional network with batch norm (32-32-pool-64-64-pool, 28x28 input, IF neurons, batch 64). Memory is the
peak resident set of a process of its own above what it had just before its first step, the median of five processes,
since the C library's allocator differs from one to the next; times are taken in one process
with one thread, the two gradients in turn. About four minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import report
import torch
from torch import nn

from harness import cost
from harness.contract import Task
from harness.loop import CPU
from harness.plugins import load

TIME_STEPS = (5, 10, 20)
GRADIENTS = ("representation", "unrolled")
REPETITIONS = 5
BATCH_SIZE = 64
MOST_MEMORY_RATIO = 1.3
LEAST_SPEED_RATIO = 2.5


class Step:
    """A network and a batch, ready to be trained on."""

    def __init__(self, gradient: str, time_steps: int) -> None:
        torch.manual_seed(0)
        self.method = load("methods", "dsr")
        self.config = self.method.Config(gradient=gradient)
        task = Task((1, 28, 28), 10, time_steps, False, "convnet", {"stages": ((32, 32), (64, 64))})
        self.net: nn.Module = self.method.build(self.config, task).train()
        self.x = torch.randn(BATCH_SIZE, 1, 28, 28).expand(time_steps, BATCH_SIZE, 1, 28, 28)
        self.y = torch.randint(10, (BATCH_SIZE,))

    def seconds(self) -> float:
        """Take one step, without an optimizer's, and return how long it took."""
        started = time.perf_counter()
        self.method.train_step(self.net, self.x, self.y, self.config, lambda: self.net.zero_grad(set_to_none=True))
        return time.perf_counter() - started


def peak_bytes(gradient: str, time_steps: int) -> int:
    """Peak memory of two steps above the process's own, measured in this process."""
    step = Step(gradient, time_steps)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    cost.reset_peak_memory()
    step.seconds()
    step.seconds()
    peak, _ = cost.peak_memory(CPU)
    if peak is None:
        raise SystemExit("this system does not let a process reset its peak memory")
    return peak - before


def peaks_elsewhere(gradient: str, time_steps: int) -> list[float]:
    """`peak_bytes` in new processes, in MiB."""
    command = [sys.executable, __file__, "--memory", gradient, str(time_steps)]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(REPETITIONS)]
    return [json.loads(run.stdout) / 2**20 for run in runs]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--memory", nargs=2, metavar=("GRADIENT", "T"), help="only print the peak bytes of this one")
    if asked := parser.parse_args().memory:
        print(peak_bytes(asked[0], int(asked[1])))
        return
    torch.set_num_threads(1)  # two threads wait for each other whenever anything else runs on the machine
    measures = []
    memory, times = {}, {}
    for time_steps in TIME_STEPS:
        steps = {gradient: Step(gradient, time_steps) for gradient in GRADIENTS}
        taken: dict[str, list[float]] = {gradient: [] for gradient in GRADIENTS}
        for repetition in range(1 + REPETITIONS):  # the first is the warm-up
            for gradient in GRADIENTS:
                seconds = steps[gradient].seconds()
                if repetition:
                    taken[gradient].append(seconds)
        for gradient in GRADIENTS:
            peaks = peaks_elsewhere(gradient, time_steps)
            memory[gradient, time_steps] = median(peaks)
            times[gradient, time_steps] = taken[gradient]
            name = f"DSR {gradient}, T = {time_steps}"
            measures.append(report.measure(f"{name}: step", median(taken[gradient]), "s"))
            measures.append(report.measure(f"{name}: step, slowest of {REPETITIONS}", max(taken[gradient]), "s"))
            measures.append(report.measure(f"{name}: peak memory of a step", median(peaks), "MiB"))
            measures.append(report.measure(f"{name}: peak memory, largest of {REPETITIONS}", max(peaks), "MiB"))
    first, last = TIME_STEPS[0], TIME_STEPS[-1]
    for gradient, bound in zip(GRADIENTS, (MOST_MEMORY_RATIO, None), strict=True):
        ratio = memory[gradient, last] / memory[gradient, first]
        measures.append(
            report.measure(f"DSR {gradient}: memory at T = {last} over T = {first}", ratio, "ratio", at_most=bound)
        )
    pairs = zip(times["unrolled", last], times["representation", last], strict=True)
    ratio = median(slow / fast for slow, fast in pairs)
    name = f"DSR time, unrolled over representation, T = {last}"
    measures.append(report.measure(name, ratio, "ratio", at_least=LEAST_SPEED_RATIO))
    report.write("dsr_memory", measures, "python benchmarks/dsr_memory.py")


if __name__ == "__main__":
    main()
