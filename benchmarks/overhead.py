"""What the harness adds: an epoch against a bare torch loop of the same work, start-up, seconds per trial.

Command: python benchmarks/overhead.py [--dataset digits]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import report
import torch
import torch.nn.functional as F

from harness import plan, plugins, trial
from harness.config import Evaluation, Experiment
from harness.data import loader
from harness.record import Record

REPETITIONS = 7
TARGET = 1.05


def experiment(dataset: str, *, epochs: int, seeds: list[int], workers: int = 1) -> Experiment:
    """Surrogate-gradient training of an MLP at T = 4: the lightest spiking step, so overhead weighs most."""
    return Experiment.model_validate(
        {
            "name": "overhead", "dataset": dataset, "network": {"name": "mlp", "hidden": [400]}, "methods": ["bptt"],
            "time_steps": 4, "seeds": seeds, "train": {"epochs": epochs}, "evaluation": {"latency_repeats": 0},
            "scale": {"workers": workers}, "tracking": {"mlflow": False},
        }
    )  # fmt: skip


def bare_epoch_seconds(planned: plan.Trial, data: loader.Data, epochs: int) -> float:
    """Seconds of an epoch (training and validation) in a hand-written loop with the same network, batches and steps."""
    method = plugins.load("methods", planned.method)
    config, task, recipe = planned.config(), planned.task(data.info), planned.train
    torch.manual_seed(0)
    net = method.build(config, task)
    optimizer = torch.optim.SGD(net.parameters(), lr=recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay)
    started = time.perf_counter()
    for epoch in range(epochs):
        net.train()
        for x, y in data.batches("train", recipe.batch_size, epoch=epoch):
            F.cross_entropy(net(x.expand(task.time_steps, *x.shape)), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        net.eval()
        correct = 0.0
        with torch.no_grad():
            for x, y in data.batches("validation", 256):
                scores = method.predict(net, x.expand(task.time_steps, *x.shape), config)
                correct += (scores[-1].argmax(1) == y).sum().item()
    return (time.perf_counter() - started) / epochs


def harness_epoch_seconds(planned: plan.Trial, epochs: int) -> float:
    """Seconds of an epoch in `trial.run`, checkpoints and bookkeeping included, start-up and final test left out."""
    with tempfile.TemporaryDirectory() as folder:
        shared = trial.Run(experiment="overhead", folder=folder, evaluation=Evaluation(latency_repeats=0))
        stamps: list[float] = []
        result = trial.run(planned, shared, report=lambda metrics: stamps.append(time.perf_counter()))
        assert isinstance(result, Record)
    return (stamps[-1] - stamps[0]) / (epochs - 1)


def sweep_seconds(dataset: str, trials: int, workers: int) -> float:
    """Wall-clock seconds of a whole `harness sweep` command over one-epoch trials."""
    with tempfile.TemporaryDirectory() as folder:
        content = experiment(dataset, epochs=1, seeds=list(range(trials)), workers=workers)
        file = Path(folder) / "overhead.yaml"
        file.write_text(json.dumps(content.model_copy(update={"results": folder}).model_dump(mode="json")))
        started = time.perf_counter()
        command = [sys.executable, "-m", "harness", "sweep", str(file), "--quiet"]
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - started


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = loader.open_data(DatasetBlock(name=options.dataset))
    planned = plan.expand(experiment(options.dataset, epochs=options.epochs, seeds=[0]), data.info)[0]
    bare, ours = [], []
    for _ in range(REPETITIONS):
        bare.append(bare_epoch_seconds(planned, data, options.epochs))
        ours.append(harness_epoch_seconds(planned, options.epochs))
    ratios = [b / a for a, b in zip(bare, ours, strict=True)]
    measures = [
        report.measure("epoch, bare torch loop", median(bare), "s"),
        report.measure("epoch, harness", median(ours), "s"),
        report.measure("harness over bare, median of side-by-side pairs", median(ratios), "ratio", at_most=TARGET),
        report.measure("harness over bare, smallest pair", min(ratios), "ratio"),
        report.measure("harness over bare, largest pair", max(ratios), "ratio"),
    ]
    for workers, more in ((1, 9), (2, 2)):
        first = sweep_seconds(options.dataset, 1, workers)
        many = sweep_seconds(options.dataset, 1 + more, workers)
        measures += [
            report.measure(f"whole command, one trial, {workers} worker(s)", first, "s"),
            report.measure(f"each further trial, {workers} worker(s)", (many - first) / more, "s"),
        ]
    report.write("overhead", measures, f"python benchmarks/overhead.py --dataset {options.dataset}")


if __name__ == "__main__":
    main()
