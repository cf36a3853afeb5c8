"""Every method on one CUDA card: is it right there, how fast is a training step, how much memory does it take.

Command: python benchmarks/gpu/methods.py [--minutes 7.5]

Runs unattended: first the tests marked `gpu`, then steps of each method at several T, in float32 and bfloat16, in order
of worth until the time is up; what was not reached is absent from results/gpu/methods.json. PreAct-ResNet-18 on images
of CIFAR's shape (batch 128) and ImageNet's (batch 64), AlexNet-F for implicit differentiation, random input. Times are
medians of CUDA events after a warm-up; beside them stand the arithmetic done a second and what the card can do at most.
Needs torch, pydantic and psutil; pytest for the tests.
"""

import argparse
import importlib.util
import itertools
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import report
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.contract import Task
from harness.plugins import load

WARM_UP, REPETITIONS = 3, 10
TEST_SECONDS = 150
FOLDER = report.FOLDER.parent / "gpu"


@dataclass(frozen=True)
class Cell:
    """One training step to measure."""

    label: str
    method: str
    settings: tuple[tuple[str, str], ...]
    network: str
    shape: tuple[int, int, int]
    classes: int
    batch_size: int
    time_steps: int
    precision: torch.dtype

    @property
    def name(self) -> str:
        kind = "bf16" if self.precision == torch.bfloat16 else "fp32"
        return f"{self.label}, {self.network}, {self.shape[1]} px, B = {self.batch_size}, T = {self.time_steps}, {kind}"


METHODS = (
    ("dsr representation", "dsr", (("gradient", "representation"),), "PreAct-ResNet-18"),
    ("dsr unrolled", "dsr", (("gradient", "unrolled"),), "PreAct-ResNet-18"),
    ("bptt", "bptt", (), "PreAct-ResNet-18"),
    ("sltt", "sltt", (), "PreAct-ResNet-18"),
    ("ide", "ide", (), "AlexNet-F"),
    ("ottt", "ottt", (), "VGG-sWS"),
    ("ann", "ann", (), "PreAct-ResNet-18"),
)
SIZES = (((3, 32, 32), 10, 128), ((3, 224, 224), 1000, 64))


def cells() -> list[Cell]:
    """All cells, the most telling first."""
    found = []
    for (shape, classes, batch), time_steps, precision in itertools.product(
        SIZES, (4, 20, 10, 50), (torch.float32, torch.bfloat16)
    ):
        if shape[1] > 32 and time_steps > 4:
            continue
        for label, method, settings, network in METHODS:
            if method == "ann" and time_steps != 4:
                continue
            found.append(Cell(label, method, settings, network, shape, classes, batch, time_steps, precision))
    return found


def measured(cell: Cell) -> list[report.Measure]:
    """Milliseconds and images a second of one step, peak memory, and the arithmetic it does a second."""
    torch.manual_seed(0)
    method = load("methods", cell.method)
    config = method.Config(**dict(cell.settings))
    time_steps = cell.time_steps if getattr(method, "SPIKING", True) else 1
    net = method.build(config, Task(cell.shape, cell.classes, time_steps, False, cell.network)).cuda().train()
    x = torch.randn(cell.batch_size, *cell.shape, device="cuda").contiguous(memory_format=torch.channels_last)
    x, y = x.expand(time_steps, *x.shape), torch.randint(cell.classes, (cell.batch_size,), device="cuda")

    def step() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=cell.precision == torch.bfloat16):
            method.train_step(net, x, y, config, lambda: net.zero_grad(set_to_none=True))

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    milliseconds = timed(step)
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    with FlopCounterMode(display=False) as counter:
        step()
    return [
        report.measure(f"{cell.name}: step", milliseconds, "ms"),
        report.measure(f"{cell.name}: rate", 1000 * cell.batch_size / milliseconds, "images/s"),
        report.measure(f"{cell.name}: peak memory", peak, "MiB"),
        report.measure(f"{cell.name}: arithmetic", counter.get_total_flops() / milliseconds / 1e9, "TFLOP/s"),
    ]


def timed(step) -> float:
    """Median milliseconds of a call, by CUDA events."""
    for _ in range(WARM_UP):
        step()
    times = []
    for _ in range(REPETITIONS):
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record()
        step()
        ended.record()
        ended.synchronize()
        times.append(started.elapsed_time(ended))
    return median(times)


def limits() -> list[report.Measure]:
    """What this card can do: matrix products a second in both precisions, bytes copied a second."""
    found = []
    for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(8192, 8192, device="cuda", dtype=dtype)
        found.append(report.measure(f"matrix product, {kind}", 2 * 8192**3 / timed(lambda a=a: a @ a) / 1e9, "TFLOP/s"))
    block = torch.empty(2**28, device="cuda")
    out = torch.empty_like(block)
    found.append(report.measure("copy", 8 * block.numel() / timed(lambda: out.copy_(block)) / 1e6, "GB/s"))
    return found


def tests() -> list[report.Measure]:
    """How many of the tests marked `gpu` did not pass; nothing where pytest is not installed."""
    if importlib.util.find_spec("pytest") is None:
        print("pytest is not installed: the tests marked gpu were not run")
        return []
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests/test_kernels.py"]
    run = subprocess.run(command, cwd=root, timeout=TEST_SECONDS, capture_output=True, text=True)
    print(run.stdout[-2000:])
    failed = 0 if run.returncode == 0 else max(1, run.stdout.count("\nFAILED"))
    return [report.measure("tests marked gpu that failed", failed, "tests", at_most=0)]


def main() -> None:
    """Test, measure, write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--minutes", type=float, default=7.5, help="when to stop measuring")
    end = time.monotonic() + 60 * parser.parse_args().minutes
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu/methods.py needs a CUDA card, and torch finds none")
    torch.backends.cudnn.benchmark = True
    found = [*tests(), *limits()]
    for cell in cells():
        if time.monotonic() > end:
            print(f"time is up before: {cell.name}")
            break
        try:
            found += measured(cell)
        except torch.OutOfMemoryError:
            print(f"out of memory: {cell.name}")
        torch.cuda.empty_cache()
        # After every cell, so that an end from outside loses one cell at the most.
        report.write("methods", found, "python benchmarks/gpu/methods.py", folder=FOLDER)


if __name__ == "__main__":
    main()
