"""Hand-made records for tests of what is made from them."""

import hashlib
import json
from typing import Any

from harness.record import Cost, EarlyExit, Energy, Epoch, Latency, Operations, Record

DATA = {"title": "Digits"}


def made(
    method: str = "dsr", *, label: str | None = None, seed: int = 0, time_steps: int = 4, accuracy: float = 90.0,
    validation: float | None = 91.0, settings: dict[str, Any] | None = None, train: dict[str, Any] | None = None,
    network: dict[str, Any] | None = None, dataset: dict[str, Any] | None = None, cost: Cost | None = None,
    start: Record | None = None, **fields: Any,
) -> Record:  # fmt: skip
    """A finished trial, that started from another one's weights if `start` is given; `fields` are the record's own."""
    trial = {
        "dataset": {"name": "digits", **(dataset or {})},
        "network": network or {"name": "mlp"},
        "method": method,
        "label": label or method,
        "settings": {"v_threshold": 1.0, **(settings or {})},
        "time_steps": time_steps,
        "seed": seed,
        "train": {"epochs": 2, "batch_size": 64, "lr": 0.1, **(train or {})},
        "selection": "best_validation",
        "workers": 1,
    } | ({"start": start.trial} if start else {})
    content: dict[str, Any] = {
        "id": identity(trial),
        "experiment": "digits",
        "trial": trial,
        "spiking": method != "ann",
        "outcome": "done",
        "selection": "best_validation",
        "selected_epoch": 2,
        "validation_accuracy": validation,
        "accuracy": {t: accuracy - 5 * (time_steps - t) for t in range(1, time_steps + 1)},
        "test_loss": 0.3,
        "history": [epoch(1), epoch(2)],
        "cost": cost or Cost(),
        "data": DATA,
        "machine": {"cpu": "Test CPU", "gpus": []},
        "commit": "0123456789abcdef",
        "dirty": False,
        "started": "2026-01-02T03:04:05+00:00",
        "wall_seconds": 12.5,
    }
    return Record.model_validate(content | fields)


def broken(outcome: str = "diverged", reason: str = "loss is NaN in epoch 1", **options: Any) -> Record:
    """A trial that gave no result."""
    nothing = {"validation": None, "accuracy": {}, "history": [], "test_loss": None, "selected_epoch": None}
    validation = nothing.pop("validation")
    record = made(validation=validation, **options)  # type: ignore[arg-type]
    return record.model_copy(update={**nothing, "outcome": outcome, "reason": reason})


def epoch(number: int) -> Epoch:
    """One epoch of a history."""
    return Epoch(
        epoch=number,
        train_loss=1.0 / number,
        train_accuracy=80.0 + number,
        validation_loss=1.1 / number,
        validation_accuracy=79.0 + number,
        lr=0.1,
        seconds=3.0,
        extras={"solver iterations": 7.0},
    )


def measured(
    milliseconds: float = 1.5, *, time_steps: int = 4, batch_size: int = 1, rates: tuple[float, ...] = (0.1, 0.3)
) -> Cost:
    """A whole set of costs."""
    return Cost(
        parameters=1000,
        latency=[
            Latency(
                batch_size=batch_size, time_steps=time_steps, median_ms=milliseconds, p95_ms=2 * milliseconds,
                repeats=20, device="cpu",
            )
        ],
        throughput=5000.0,
        peak_memory_bytes=10**8,
        peak_memory_kind="resident set",
        firing_rates={f"layer{index}": rate for index, rate in enumerate(rates)},
        synops=1.25e6 if rates else 0.0,
        macs=2e5,
        energy=Energy(nanojoules=2045.0, mac_picojoules=4.6, ac_picojoules=0.9, source="45 nm, Horowitz 2014"),
    )  # fmt: skip


def identity(trial: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for a trial."""
    return hashlib.sha256(json.dumps(trial, sort_keys=True, default=str).encode()).hexdigest()[:12]


def sweep() -> list[Record]:
    """Three methods, three T, three seeds, two thresholds, one seed diverged: what an experiment leaves."""
    found = []
    for seed in range(3):
        found.append(
            made("ann", time_steps=1, seed=seed, accuracy=97.5 + 0.1 * seed, cost=measured(0.2, time_steps=1, rates=()))
        )
        for place, method in enumerate(("bptt", "dsr", "ide")):
            for time_steps in (2, 4, 8):
                for threshold in (0.5, 1.0):
                    options: dict[str, Any] = {
                        "method": method, "time_steps": time_steps, "seed": seed, "settings": {"v_threshold": threshold}
                    }  # fmt: skip
                    if (method, time_steps, threshold, seed) == ("ide", 2, 0.5, 1):
                        found.append(broken(**options))
                        continue
                    accuracy = 96 - 8 / time_steps - place + threshold + 0.3 * seed
                    cost = measured(0.3 * time_steps * (1 + place), time_steps=time_steps)
                    found.append(made(**options, accuracy=accuracy, validation=accuracy + 0.2, cost=cost))
    return found


def full(**options: Any) -> Record:
    """A record with every field of its schema filled, T = 4."""
    cost = measured().model_copy(
        update={
            "neurons": 80,
            "latency": [
                Latency(
                    batch_size=size, time_steps=t, median_ms=t / size, p95_ms=2 * t, p99_ms=3 * t, repeats=9,
                    device="cpu",
                )
                for size in (1, 32) for t in (1, 4)
            ],
            "dead": {"layer0": 0.25, "layer1": 0.75},
            "saturated": {"layer0": 0.125},
            "operations": Operations(Effective_MACs=20.0, Effective_ACs=30.0, Dense=90.0),
            "energy": Energy(
                nanojoules=1.0, memory_nanojoules=2.0, ann_nanojoules=3.0, ann_memory_nanojoules=4.0,
                mac_picojoules=4.6, ac_picojoules=0.9, source="45 nm",
            ),
            "worker_hours": 0.5,
            "accelerator_hours": 0.25,
        }
    )  # fmt: skip
    fields: dict[str, Any] = {
        "cost": cost,
        "accuracy_top5": {t: 95.0 + t for t in range(1, 5)},
        "early_exit": [EarlyExit(confidence=c, mean_time_steps=4 * c, accuracy=80 + 10 * c) for c in (0.5, 0.9)],
        "convergence": {"representation_error": {"layer0": [0.4, 0.3, 0.2, 0.1]}},
        "system": {"seconds": [2.0, 4.0], "cpu_utilization_percentage": [50.0, float("nan")]},
        "test_samples": 360,
        "micro_batches": 2,
        "data": {"title": "Digits", "fingerprint": "sha256:" + "ab" * 32,
                 "sizes": {"train": 90, "validation": 10, "test": 20}},
        "command": "harness sweep digits.yaml",
        "versions": {"harness": "0.1.0"},
    }  # fmt: skip
    return made(**{**fields, **options})
