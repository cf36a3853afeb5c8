"""What it saves to keep freed memory, as trials on a CPU do, and what it costs: seconds and peak memory of a step.

Command: python benchmarks/kept_memory.py

A small convolutional network (32-32-pool-64-64-pool, 28x28 input, batch 64, T = 8), one thread. Each step is measured
in a process of its own, with and without memory kept in turn, three times; seconds are processor time, of which
returning pages to the system and clearing new ones is a part. About two minutes.
"""

import argparse
import json
import subprocess
import sys
import time
from statistics import median

import report
import torch

from harness import allocator, cost
from harness.contract import Task
from harness.loop import CPU
from harness.plugins import load

CASES = {"bptt": {}, "dsr": {"gradient": "representation"}, "dsr unrolled": {"gradient": "unrolled"}, "ann": {}}
ROUNDS, STEPS = 3, 6


def step(case: str, *, keep: bool) -> dict[str, float]:
    """Processor seconds of a step, the median but for the first, and peak MiB above what was held before."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if keep and not allocator.keep_memory():
        raise SystemExit("only glibc can be told to keep memory")
    method = load("methods", case.split()[0])
    config = method.Config(**CASES[case])
    net = method.build(config, Task((1, 28, 28), 10, 8, False, "convnet", {"stages": ((32, 32), (64, 64))})).train()
    x, y = torch.randn(64, 1, 28, 28).expand(8, 64, 1, 28, 28), torch.randint(10, (64,))
    cost.reset_peak_memory()
    before, _ = cost.peak_memory(CPU)
    taken = []
    for _ in range(STEPS):
        started = time.process_time()
        method.train_step(net, x, y, config, lambda: net.zero_grad(set_to_none=True))
        taken.append(time.process_time() - started)
    peak, _ = cost.peak_memory(CPU)
    assert peak is not None
    assert before is not None
    return {"seconds": median(taken[1:]), "mebibytes": (peak - before) / 2**20}


def elsewhere(case: str, keep: bool) -> dict[str, float]:
    """`step` in a new process."""
    command = [sys.executable, __file__, "--step", case, *(["--keep"] if keep else [])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--step", choices=CASES, help="only print this one, as JSON")
    parser.add_argument("--keep", action="store_true", help="with memory kept")
    if (asked := parser.parse_args()).step:
        print(json.dumps(step(asked.step, keep=asked.keep)))
        return
    measures = []
    for case in CASES:
        rounds = [(elsewhere(case, False), elsewhere(case, True)) for _ in range(ROUNDS)]
        for what, unit in (("seconds", "s"), ("mebibytes", "MiB")):
            for index, how in enumerate(("returned", "kept")):
                value = median(each[index][what] for each in rounds)
                measures.append(report.measure(f"{case}, memory {how}: {what} of a step", value, unit))
        faster = median(one["seconds"] / other["seconds"] for one, other in rounds)
        measures.append(report.measure(f"{case}: seconds, memory returned over kept", faster, "ratio"))
        larger = median(other["mebibytes"] / one["mebibytes"] for one, other in rounds)
        measures.append(report.measure(f"{case}: peak memory, kept over returned", larger, "ratio"))
    report.write("kept_memory", measures, "python benchmarks/kept_memory.py")


if __name__ == "__main__":
    main()
