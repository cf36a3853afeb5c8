"""IDE's solvers in backward: seconds, memory and calls of J^T, beside Broyden's method as the released code runs it.

Command: python benchmarks/ide_solvers.py

AlexNet-F at initialisation, CIFAR-10's shape, T = 30, IF neurons, one thread; batch norm's running statistics have
settled. Backward is everything from the loss to the parameters' gradients. All solvers start from the same simulated
rates; in each of five rounds, after a warm-up, every solver's backward pass is timed once, so that ratios are of
passes that stood side by side. Seconds are the process's own processor time, which is wall-clock time on an idle
machine. A solver's memory is what its own tensors hold at once, counted exactly; peak resident memory of a whole
backward pass, in a process of its own, stands beside it. About three minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, get_args

import report
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from harness import cost, solvers
from harness.contract import Task
from harness.loop import CPU
from harness.models.equilibrium import represent
from harness.models.implicit import implicit
from harness.plugins import load

TIME_STEPS, BATCH_SIZE, REPETITIONS = 30, 8, 5
STORED_PAIRS, YARDSTICK_ITERATIONS, YARDSTICK_TOLERANCE = 27, 30, 2e-10
LEAST_SPEED_RATIO, LEAST_MEMORY_RATIO = 3.0, 5.0
YARDSTICK = "yardstick"
EQUAL_RESIDUALS = (1e-4, 1e-6)

Found = tuple[Tensor, solvers.Info]
Solve = Callable[[solvers.Function, Tensor], Found]


def yardstick(f: solvers.Function, q: Tensor) -> Found:
    """Broyden's good method for g(v) = f(v) - v = 0, written from a description of the released code.

    The inverse of the Jacobian is -I + U V^T, pairs overwritten in turn; the first step goes the wrong way, -g; the
    best v is returned after 30 steps, or when ||g|| < 2e-10 sqrt(B d).
    """
    batch_size, d = q.flatten(1).shape
    left, right = q.new_zeros(batch_size, d, STORED_PAIRS), q.new_zeros(batch_size, STORED_PAIRS, d)

    def g(v: Tensor) -> Tensor:
        return (f(v.view_as(q)) - v.view_as(q)).flatten(1)

    def inverse(x: Tensor) -> Tensor:
        return torch.baddbmm(-x[..., None], left, right @ x[..., None])[..., 0]

    def inverse_transposed(x: Tensor) -> Tensor:
        return torch.baddbmm(-x[:, None], x[:, None] @ left, right)[:, 0]

    v = torch.zeros_like(q).flatten(1)
    value, calls = g(v), 1
    first = lowest = value.norm().item()
    best, step = v, -value
    for iteration in range(YARDSTICK_ITERATIONS):
        v, before = v + step, value
        value, calls = g(v), calls + 1
        if (norm := value.norm().item()) < lowest:
            best, lowest = v, norm
        if norm < YARDSTICK_TOLERANCE * (batch_size * d) ** 0.5:
            break
        change = value - before
        row = inverse_transposed(step)
        column = (step - inverse(change)) / (row * change).sum(1, keepdim=True)
        right[:, iteration % STORED_PAIRS] = row.nan_to_num(0)
        left[:, :, iteration % STORED_PAIRS] = column.nan_to_num(0)
        step = -inverse(value)
    return best.view_as(q), solvers.Info(calls, lowest / first)


class Held(TorchDispatchMode):
    """The most bytes that tensors made inside held at once; what calls of `apart(f)` make does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.most_bytes, self.paused = 0, False
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if not self.paused:
            self.note(*(made if isinstance(made, tuple | list) else (made,)))
        return made

    def apart(self, f: solvers.Function) -> solvers.Function:
        """f, of which only what it returns counts."""

        def silent(v: Tensor) -> Tensor:
            self.paused = True
            image = f(v)
            self.paused = False
            self.note(image)
            return image

        return silent

    def note(self, *made: Any) -> None:
        self.alive = {key: kept for key, kept in self.alive.items() if not kept[0].expired()}
        for tensor in made:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.most_bytes = max(self.most_bytes, sum(size for _, size in self.alive.values()))


class Step:
    """The network, a batch and its simulated rates, ready for backward passes."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        method = load("methods", "ide")
        task = Task((3, 32, 32), 10, TIME_STEPS, False, "AlexNet-F")
        self.net = method.build(method.Config(neuron="if", norm_statistics="batch"), task).train()
        self.x = torch.randn(BATCH_SIZE, 3, 32, 32).expand(TIME_STEPS, BATCH_SIZE, 3, 32, 32)
        self.y = torch.arange(BATCH_SIZE) % 10
        for stage in self.net.body.stages:
            stage.norm.momentum = 1.0
        self.net(self.x)  # statistics settle
        self.net.config = method.Config(neuron="if")
        self.currents = self.net.currents(self.x)
        started = time.process_time()
        *_, self.rates = self.net._simulated(self.currents)
        self.simulation_seconds = time.process_time() - started
        with torch.no_grad():
            gap = self.rates - represent(self.currents, self.rates, self.net.config.v_threshold)
        relative = (gap.norm() / self.rates.norm()).item()
        self.tolerance = min(max(method.AUTO_SHARE * relative, method.AUTO_LEAST), method.AUTO_MOST)
        """What `tolerance: auto` asks for here."""

    def backward_seconds(self, solve: Solve) -> float:
        """From the loss to the gradients of all parameters."""
        theta = self.net.config.v_threshold
        currents = self.net.currents(self.x)
        state, _ = implicit(lambda a: represent(currents, a, theta), self.rates, lambda f, q: solve(f, q)[0])
        loss = F.cross_entropy(self.net.body.score(state), self.y)
        started = time.process_time()
        loss.backward()
        seconds = time.process_time() - started
        self.net.zero_grad()
        return seconds

    def look(self, solve: Solve) -> tuple[int, solvers.Info]:
        """The bytes that the solver's own tensors held at once (with q's solution, without q), and its report."""
        held, found = Held(), list[solvers.Info]()

        def observed(f: solvers.Function, q: Tensor) -> Found:
            with held:
                v, info = solve(held.apart(f), q)
            found.append(info)
            return v, info

        self.backward_seconds(observed)
        return held.most_bytes, found[0]


def solution(solver: str, tolerance: float) -> Solve:
    """A solver by name, as the method calls it."""
    if solver == YARDSTICK:
        return yardstick
    name: Any = solver
    return lambda f, q: solvers.solve(
        name, f, torch.zeros_like(q), residual=q, tolerance=tolerance, max_iterations=30
    )  # fmt: skip


def peak_bytes(solver: str, tolerance: float) -> int:
    """Peak memory of a backward pass above the process's own, measured in this process, after a first one."""
    step = Step()
    step.backward_seconds(solution("neumann", 0.5))
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    cost.reset_peak_memory()
    step.backward_seconds(solution(solver, tolerance))
    peak, _ = cost.peak_memory(CPU)
    if peak is None:
        raise SystemExit("this system does not let a process reset its peak memory")
    return peak - before


def peak_elsewhere(solver: str, tolerance: float) -> float:
    """`peak_bytes` in new processes, in MiB: the median of three."""
    command = [sys.executable, __file__, "--memory", solver, str(tolerance)]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(3)]
    return median(json.loads(run.stdout) / 2**20 for run in runs)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--memory", nargs=2, metavar=("SOLVER", "TOLERANCE"), help="only print this one's peak bytes")
    asked = parser.parse_args().memory
    torch.set_num_threads(1)  # two threads wait for each other whenever anything else runs on the machine
    if asked:
        print(peak_bytes(asked[0], float(asked[1])))
        return
    step = Step()
    default = load("methods", "ide").Config().solver
    automatic = f"auto ({step.tolerance:.1e})"
    asked_for = {automatic: step.tolerance} | {f"{tolerance:.0e}": tolerance for tolerance in EQUAL_RESIDUALS}
    runs = [(YARDSTICK, f"{YARDSTICK_TOLERANCE:.0e}", YARDSTICK_TOLERANCE)]
    runs += [
        (solver, label, tolerance) for label, tolerance in asked_for.items() for solver in get_args(solvers.Solver)
    ]
    measures = [report.measure(f"simulation, T = {TIME_STEPS}, batch {BATCH_SIZE}", step.simulation_seconds, "s")]
    taken: dict[tuple[str, str], list[float]] = {(solver, label): [] for solver, label, _ in runs}
    for round_number in range(1 + REPETITIONS):  # the first is the warm-up
        for solver, label, tolerance in runs:
            seconds = step.backward_seconds(solution(solver, tolerance))
            if round_number:
                taken[solver, label].append(seconds)
    slow = taken[runs[0][:2]]
    speed, memory = {}, {}
    for solver, label, tolerance in runs:
        held, info = step.look(solution(solver, tolerance))
        own, name = taken[solver, label], f"IDE {solver} to {label}"
        memory[solver, label] = held
        speed[solver, label] = median(yardsticks / seconds for yardsticks, seconds in zip(slow, own, strict=True))
        measures += [
            report.measure(f"{name}: calls of J^T", info.iterations, "calls"),
            report.measure(f"{name}: relative residual", info.relative_residual, "ratio"),
            report.measure(f"{name}: backward", median(own), "s"),
            report.measure(f"{name}: backward, slowest of {REPETITIONS}", max(own), "s"),
            report.measure(f"{name}: step, simulation and backward", step.simulation_seconds + median(own), "s"),
            report.measure(f"{name}: memory of the solver", held / 2**20, "MiB"),
            report.measure(f"{name}: yardstick's backward time over its", speed[solver, label], "ratio"),
        ]
    for solver, label, tolerance in (runs[0], (default, automatic, step.tolerance)):
        peak = peak_elsewhere(solver, tolerance)
        measures.append(report.measure(f"IDE {solver} to {label}: peak memory of a backward pass", peak, "MiB"))
    measures.append(
        report.measure(
            "processes that wanted a CPU beside and with this, mean of 15 minutes", os.getloadavg()[2], "processes"
        )
    )
    chosen = f"default ({default} to {automatic})"
    ratio = memory[YARDSTICK, runs[0][1]] / memory[default, automatic]
    measures += [
        report.measure(
            f"IDE backward time, yardstick over {chosen}",
            speed[default, automatic],
            "ratio",
            at_least=LEAST_SPEED_RATIO,
        ),
        report.measure(f"IDE solver memory, yardstick over {chosen}", ratio, "ratio", at_least=LEAST_MEMORY_RATIO),
    ]
    report.write("ide_solvers", measures, "python benchmarks/ide_solvers.py")


if __name__ == "__main__":
    main()
