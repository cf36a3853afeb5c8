"""Records as a year of sweeps leaves them, made up: for measuring what reads many of them, never as results.

Command: python -m benchmarks.synthetic_records FOLDER [COUNT]
"""

import hashlib
import itertools
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import record
from harness.cell import canonical
from harness.record import Cost, EarlyExit, Energy, Epoch, Latency, Operations, Record

DATASETS = {"mnist": "MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "cifar10_dvs": "CIFAR10-DVS"}
NETWORKS = ("mlp", "vgg11", "preact_resnet18")
METHODS = ("ann", "bptt", "conversion", "dsr", "ide", "ottt", "sltt")
TIME_STEPS = (1, 2, 4, 8, 16, 32)
THRESHOLDS = (0.5, 1.0, 2.0, 4.0)
EPOCHS = 30
CONFIDENCES = (0.5, 0.7, 0.9, 0.95, 0.99)


def records(count: int = 10_000) -> Iterator[Record]:
    """So many records of different trials; always the same ones."""
    grid = itertools.product(range(10**6), DATASETS, NETWORKS, METHODS, TIME_STEPS, THRESHOLDS)
    for names in itertools.islice(grid, count):
        yield _record(*names)


def write(folder: Path, count: int = 10_000) -> None:
    """Write the records as sweeps do, one folder for each dataset."""
    for made in records(count):
        record.write(made, folder / made.experiment)


def _record(seed: int, dataset: str, network: str, method: str, time_steps: int, threshold: float) -> Record:
    chance = random.Random(f"{seed} {dataset} {network} {method} {time_steps} {threshold}")
    trial = _trial(seed, dataset, network, method, time_steps, threshold)
    shared: dict[str, Any] = {
        "id": hashlib.sha256(canonical(trial).encode()).hexdigest()[:12], "experiment": dataset, "trial": trial,
        "spiking": method != "ann",
        "selection": "best_validation", "machine": {"cpu": "made up", "cores": 16, "gpus": []},
        "versions": {"python": "3.11.2", "harness": "0.0.0", "torch": "2.13.0"}, "commit": "0" * 40, "dirty": False,
        "command": f"harness sweep configs/{dataset}.yaml", "started": f"2026-01-{1 + seed % 28:02d}T00:00:00+00:00",
        "data": {"title": DATASETS[dataset], "sizes": {"train": 45_000, "validation": 5_000, "test": 10_000}},
        "wall_seconds": 600 + 60 * chance.random(),
        "history": [_epoch(number, chance) for number in range(1, EPOCHS + 1)],
    }  # fmt: skip
    if chance.random() < 0.02:
        return Record(**shared, outcome="diverged", reason="loss is not finite in epoch 3")
    place = METHODS.index(method)
    final = 95 - 20 * (DATASETS[dataset] == "CIFAR-100") - 8 / time_steps + 0.3 * place - abs(math.log2(threshold)) / 2
    final += chance.gauss(0, 0.3)
    accuracy = {t: final - 10 * (time_steps - t) / time_steps for t in range(1, time_steps + 1)}
    return Record(
        **shared, outcome="done", selected_epoch=EPOCHS, validation_accuracy=final + chance.gauss(0, 0.3),
        accuracy=accuracy, accuracy_top5={t: (100 + value) / 2 for t, value in accuracy.items()}, test_loss=0.3,
        early_exit=[
            EarlyExit(confidence=value, mean_time_steps=1 + (time_steps - 1) * value, accuracy=final - 1 + value)
            for value in CONFIDENCES
        ],
        convergence=_convergence(method, time_steps), test_samples=10_000, cost=_cost(time_steps, chance),
        weights="weights.pt",
    )  # fmt: skip


def _trial(seed: int, dataset: str, network: str, method: str, time_steps: int, threshold: float) -> dict[str, Any]:
    return {
        "dataset": {"name": dataset, "validation": 0.1, "split_seed": 0}, "network": {"name": network},
        "method": method, "label": method,
        "settings": {"v_threshold": threshold, "tau": 2.0, "surrogate": "triangle", "alpha": 1.0},
        "time_steps": time_steps, "seed": seed, "selection": "best_validation", "workers": 1,
        "train": {"epochs": EPOCHS, "batch_size": 128, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9},
    }  # fmt: skip


def _epoch(number: int, chance: random.Random) -> Epoch:
    noise = chance.gauss(0, 0.02)
    return Epoch(
        epoch=number, train_loss=2 / number + noise, train_accuracy=95 - 60 / number,
        validation_loss=2.1 / number + noise, validation_accuracy=94 - 60 / number,
        lr=0.1, seconds=18 + chance.random(), evaluation_seconds=2.0,
        extras={"gradient norm": 1 / number},
    )  # fmt: skip


def _cost(time_steps: int, chance: random.Random) -> Cost:
    layers = [f"features.{number}" for number in range(12)]
    latency = [
        Latency(
            batch_size=batch_size, time_steps=t, median_ms=t / batch_size**0.8, p95_ms=1.2 * t / batch_size**0.8,
            p99_ms=1.5 * t / batch_size**0.8, repeats=50, device="CPU, 8 threads", state={"load_1min": 0.5},
        )
        for batch_size in (1, 64)
        for t in {time_steps, *(2**k for k in range(6) if 2**k < time_steps)}
    ]  # fmt: skip
    synops = 1e6 * time_steps * (1 + chance.random())
    return Cost(
        parameters=1_000_000, neurons=200_000, latency=latency, throughput=2500.0, peak_memory_bytes=10**9,
        peak_memory_kind="resident set", firing_rates={layer: 0.3 * chance.random() for layer in layers},
        dead={layer: 0.05 * chance.random() for layer in layers}, saturated={layer: 0.0 for layer in layers},
        operations=Operations(Effective_MACs=2e5 * time_steps, Effective_ACs=synops, Dense=1e7 * time_steps),
        energy=Energy(
            nanojoules=0.9e-3 * synops + 4.6e-3 * 2e5 * time_steps, memory_nanojoules=20e-3 * synops,
            ann_nanojoules=4.6e-3 * 1e7, ann_memory_nanojoules=20e-3 * 1e7, mac_picojoules=4.6, ac_picojoules=0.9,
            source="45 nm (made up)", memory_source="made up",
        ),
        worker_hours=0.17,
    )  # fmt: skip


def _convergence(method: str, time_steps: int) -> dict[str, dict[str, list[float]]]:
    measures = {"dsr": "representation_error", "ide": "equilibrium_residual"}
    if method not in measures:
        return {}
    return {measures[method]: {f"layer {number}": [1 / t for t in range(1, time_steps + 1)] for number in range(4)}}


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10_000)
