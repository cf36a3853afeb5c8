"""DSR's two gradients against the same network unrolled in plain torch: seconds and peak memory of a training step.

Command: python benchmarks/dsr.py [--threads N]

PreAct-ResNet-18 for CIFAR, LIF neurons, batch 16. Times are taken in one process, the three implementations in turn.
Memory is that of a process of its own: its peak resident set above what it had before the step, the median of three
processes. A step on two samples comes first, so that the code of libraries is not counted. About 15 minutes.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import report
import torch
from dsr_reference import PlainNetwork, plain_step
from torch import nn

from harness import cost
from harness.contract import Task
from harness.loop import CPU
from harness.plugins import load

TIME_STEPS = (5, 10, 20)
LONG = 50
"""Time steps at which the memory of the representation is compared with that of the first of TIME_STEPS."""
PLAIN = "plain torch"
KINDS = (PLAIN, "unrolled", "representation")
REPETITIONS = 3
BATCH_SIZE = 16
LEAST_SPEED = {"unrolled": 1.5, "representation": 4.0}
LEAST_MEMORY = {"unrolled": 3.0, "representation": 8.0}
MOST_GROWTH = 1.2


class Step:
    """A network and a batch, ready to be trained on."""

    def __init__(self, kind: str, time_steps: int) -> None:
        torch.manual_seed(0)
        self.kind, self.method = kind, load("methods", "dsr")
        task = Task((3, 32, 32), 10, time_steps, False, "PreAct-ResNet-18")
        given = self.method.Config(neuron="lif", gradient="representation" if kind == PLAIN else kind)
        self.config = self.method.resolve(given, task)
        self.net: nn.Module = self.method.build(self.config, task).train()
        if kind == PLAIN:
            plain = PlainNetwork(self.net.code, self.config.v_threshold, 10, time_steps)
            for parameter, ours in zip(plain.parameters(), self.net.parameters(), strict=True):
                parameter.data.copy_(ours.data)
            self.net = plain.train()
        self.x = torch.randn(BATCH_SIZE, 3, 32, 32).expand(time_steps, BATCH_SIZE, 3, 32, 32)
        self.y = torch.arange(BATCH_SIZE) % 10

    def seconds(self, batch_size: int = BATCH_SIZE) -> float:
        """Take one step, without an optimizer's, and return how long it took."""
        started = time.perf_counter()
        x, y = self.x[:, :batch_size], self.y[:batch_size]
        if self.kind == PLAIN:
            plain_step(self.net, x, y)
        else:
            self.method.train_step(self.net, x, y, self.config, lambda: None)
        taken = time.perf_counter() - started
        self.net.zero_grad(set_to_none=True)
        return taken


def peak_bytes(kind: str, time_steps: int) -> int:
    """Peak memory of a step above the process's own, measured in this process."""
    step = Step(kind, time_steps)
    step.seconds(batch_size=2)
    ctypes.CDLL(None).malloc_trim(0)  # what the warm-up freed goes back to the system, and is counted again
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    cost.reset_peak_memory()
    step.seconds()
    peak, _ = cost.peak_memory(CPU)
    if peak is None:
        raise SystemExit("this system does not let a process reset its peak memory")
    return peak - before


def peak_elsewhere(kind: str, time_steps: int, threads: int) -> float:
    """`peak_bytes` in MiB, the median of new processes."""
    command = [sys.executable, __file__, "--threads", str(threads), "--memory", kind, str(time_steps)]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(REPETITIONS)]
    return median(json.loads(run.stdout) / 2**20 for run in runs)


def times(time_steps: int) -> dict[str, list[float]]:
    """Seconds of steps of each kind, in turn, after a warm-up."""
    steps = {kind: Step(kind, time_steps) for kind in KINDS}
    for step in steps.values():
        step.seconds()
    turns = [{kind: step.seconds() for kind, step in steps.items()} for _ in range(REPETITIONS)]
    return {kind: [turn[kind] for turn in turns] for kind in KINDS}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of a step")
    parser.add_argument("--memory", nargs=2, metavar=("KIND", "T"), help="only print the peak bytes of this one")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.memory:
        print(peak_bytes(given.memory[0], int(given.memory[1])))
        return
    measures = [report.measure("threads", given.threads, "")]
    memory: dict[tuple[str, int], float] = {}
    for time_steps in TIME_STEPS:
        taken = times(time_steps)
        for kind in KINDS:
            memory[kind, time_steps] = peak_elsewhere(kind, time_steps, given.threads)
            name = f"{kind}, T = {time_steps}"
            measures.append(report.measure(f"{name}: step", median(taken[kind]), "s"))
            measures.append(report.measure(f"{name}: step, slowest of {REPETITIONS}", max(taken[kind]), "s"))
            measures.append(report.measure(f"{name}: peak memory of a step", memory[kind, time_steps], "MiB"))
        for kind in KINDS[1:]:
            last = time_steps == TIME_STEPS[-1]
            faster = median(slow / fast for slow, fast in zip(taken[PLAIN], taken[kind], strict=True))
            less = memory[PLAIN, time_steps] / memory[kind, time_steps]
            for what, ratio, targets in (("speed", faster, LEAST_SPEED), ("memory", less, LEAST_MEMORY)):
                name = f"{kind}, T = {time_steps}: {what} over {PLAIN}"
                measures.append(report.measure(name, ratio, "times", at_least=targets[kind] if last else None))
    for kind, bound in (("unrolled", None), ("representation", MOST_GROWTH)):
        much = peak_elsewhere(kind, LONG, given.threads)
        name = f"{kind}: memory at T = {LONG} over T = {TIME_STEPS[0]}"
        measures.append(report.measure(f"{kind}, T = {LONG}: peak memory of a step", much, "MiB"))
        measures.append(report.measure(name, much / memory[kind, TIME_STEPS[0]], "ratio", at_most=bound))
    report.write("dsr", measures, f"python benchmarks/dsr.py --threads {given.threads}")


if __name__ == "__main__":
    main()
