"""What measuring costs adds to every trial: seconds, on the demo's trials and on networks of real size.

    python benchmarks/measuring.py

The demo (configs/digits.yaml) bounds it: 48 trials of seconds each. The others are untrained, on random images: how
long counting operations and spikes of `cost.SAMPLES` samples takes does not depend on what was learned.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import report
import torch
from torch import Tensor

from harness import cost, experiment_file, plan, plugins, sweep, trial
from harness.contract import Task
from harness.evaluation import in_time

MOST_SECONDS = 0.3
"""A trial of the demo, on average."""
NETWORKS = {
    "MNIST, mlp": Task(shape=(1, 28, 28), classes=10, time_steps=8, temporal=False, network="mlp"),
    "CIFAR-10, VGG-11": Task(shape=(3, 32, 32), classes=10, time_steps=4, temporal=False, network="VGG-11"),
}


def demo(file: Path) -> Iterator[tuple[str, float]]:
    """Method and seconds of each trial of the demo's first seed, trained for one epoch."""
    measure, seconds = cost.measure, list[float]()

    def timed(*given, **named) -> cost.Cost:
        started = time.perf_counter()
        found = measure(*given, **named)
        seconds.append(time.perf_counter() - started)
        return found

    cost.measure = timed
    with tempfile.TemporaryDirectory() as folder:
        experiment = experiment_file.load(file, ["train.epochs=1", "tracking.mlflow=false", f"results={folder}"])
        info = plugins.load("datasets", experiment.dataset.name).INFO
        for each in plan.expand(experiment, info):
            if each.seed == experiment.seeds[0]:
                trial.run(each, sweep.run_of(experiment))
                yield each.label, seconds[-1]
    cost.measure = measure


def counting(task: Task) -> tuple[float, float]:
    """Seconds of an inference of one batch by bptt, alone and counted; the median of three."""
    method = plugins.load("methods", "bptt")
    config = method.Config()
    net = method.build(config, task).eval()
    x = in_time(torch.randn(cost.BATCH, *task.shape), task)
    predict = partial(method.predict, net, x, config)
    alone, counted = list[float](), list[float]()
    for _ in range(3):
        alone.append(_seconds(predict))
        counted.append(_seconds(partial(cost.Counter(net, spiking=True).watch, predict, cost.BATCH)))
    return statistics.median(alone), statistics.median(counted)


@torch.no_grad()
def _seconds(call: partial[Tensor] | partial[None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=Path("configs/digits.yaml"), help="experiment to take trials from")
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of the JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    added = list(demo(options.file))
    measures = [
        report.measure("added to a trial, mean", statistics.fmean(s for _, s in added), "s", at_most=MOST_SECONDS),
        report.measure("added to a trial, most", max(seconds for _, seconds in added), "s"),
    ]
    for name, task in NETWORKS.items():
        alone, counted = counting(task)
        measures.append(report.measure(f"{name}: inference of {cost.BATCH}, T={task.time_steps}", alone, "s"))
        measures.append(report.measure(f"{name}: counted", counted, "s"))
        measures.append(report.measure(f"{name}: all {cost.SAMPLES}", counted * cost.SAMPLES / cost.BATCH, "s"))
    report.write("measuring", measures, "python benchmarks/measuring.py", folder=options.out)


if __name__ == "__main__":
    main()
