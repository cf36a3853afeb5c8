"""How sweeps behave when they are large: 10,000 trials on 1,000 nodes, as far as one machine can tell.

Command: python benchmarks/scheduler.py

Measured: our bookkeeping for 10,000 trials (planning, what is due, reading their records, showing progress), and what
Ray Tune's event loop takes for each trial and for each epoch, by real sweeps of trials that do next to nothing.
Simulated, with these figures: 1,000 nodes whose controller handles one event after the other, with trials as long as
trials are and stragglers among them, against what no scheduler can beat.
"""

import heapq
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import report

from harness import backlog, forecast, plan, record, search
from harness.config import Experiment
from harness.data import prepare
from harness.progress import Display
from harness.record import Record

Result = TypeVar("Result")

TRIALS, NODES = 10_000, 1_000
METHODS = ["ann", "bptt", "dsr", "sltt"]
MINUTES, SPREAD, STRAGGLERS, SLOWER = 60, 0.15, 0.02, 3
"""Of a simulated trial: its median, its scatter (log-normal), how many are on a slow node, and how slow that is."""
EPOCHS = 100


def experiment(trials: int, folder: Path, **changes: object) -> Experiment:
    """So many small trials."""
    seeds = list(range(trials // len(METHODS)))
    content = {
        "name": "many", "dataset": "digits", "network": {"name": "mlp", "hidden": [16]}, "methods": METHODS,
        "time_steps": 2, "seeds": seeds, "results": str(folder), "tracking": {"mlflow": False},
        "evaluation": {"latency_repeats": 0}, "train": {"epochs": EPOCHS},
    }  # fmt: skip
    return Experiment.model_validate(content | changes)


def timed(measures: list[report.Measure], name: str, number: int, work: Callable[[], Result]) -> Result:
    """What `work` returns, and its milliseconds a trial as a measure."""
    started = time.perf_counter()
    result = work()
    measures.append(report.measure(name, 1000 * (time.perf_counter() - started) / number, "ms/trial"))
    return result


def bookkeeping(number: int) -> list[report.Measure]:
    """Our own work for each trial; run at two sizes, so that what grows faster than the trials shows."""
    found: list[report.Measure] = []
    info = prepare.info("digits")
    with tempfile.TemporaryDirectory() as folder:
        ours = experiment(number, Path(folder))
        trials = timed(found, f"plan of {number} trials", number, lambda: plan.expand(ours, info))
        timed(found, f"due of {number} without records", number, lambda: backlog.due(trials, ours.folder))
        records = [_record(trial) for trial in trials]
        timed(found, f"writing {number} records", number, lambda: [record.write(r, ours.folder) for r in records])
        timed(found, f"due of {number} with records", number, lambda: backlog.due(trials, ours.folder))
        timed(found, f"reading {number} records", number, lambda: list(record.read_all([ours.folder])))
        timed(found, f"handing out {number} trials", number, lambda: _handed_out(trials))
        timed(found, f"showing {number} trials", number, lambda: _shown(records))
    return found


def _handed_out(trials: Sequence[plan.Trial]) -> None:
    searcher = search.listed(trials)
    for trial in trials:
        assert searcher.suggest(trial.seed)["trial"]["seed"] == trial.seed


def _shown(records: Sequence[Record]) -> None:
    display = Display([EPOCHS] * len(records), quiet=True)
    for result in records:
        display.epoch(result.id, 1, {})
        display.finished(result)


def _record(trial: plan.Trial) -> Record:
    """A finished trial's record of the usual size."""
    history = [
        {"epoch": e, "train_loss": 0.123456789, "train_accuracy": 91.23456789, "validation_loss": 0.123456789,
         "validation_accuracy": 91.23456789, "lr": 0.1, "seconds": 1.23456789, "evaluation_seconds": 0.123456789}
        for e in range(EPOCHS)
    ]  # fmt: skip
    return Record.model_validate({
        "id": trial.id, "experiment": "many", "trial": trial.model_dump(mode="json"), "outcome": "done",
        "selection": "last", "accuracy": {1: 90.0, 2: 91.0}, "history": history, "wall_seconds": 120.0,
    })  # fmt: skip


def tune_seconds(trials: int, epochs: int) -> float:
    """Wall-clock of a real sweep of trials of one step an epoch, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "many.yaml"
        small = {"epochs": epochs, "limit_batches": 1, "batch_size": 8}
        file.write_text(experiment(trials, Path(folder), methods=["ann"], train=small).model_copy(
            update={"seeds": tuple(range(trials))}).model_dump_json())  # fmt: skip
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "harness", "sweep", str(file), "--quiet"], check=True, capture_output=True
        )
        return time.perf_counter() - started


def controlled(lengths: Sequence[float], places: int, event_seconds: float, events: int) -> float:
    """Seconds until all trials are done when one controller handles every event of all of them, one after the other.

    A trial reports `events` times, evenly; a place gets its next trial when its last event has been handled.
    """
    queue: list[tuple[float, float, int]] = []
    waiting = iter(lengths)
    free_at, ended = 0.0, 0.0
    for length in list(next(waiting, None) for _ in range(places)):
        if length is not None:
            free_at += event_seconds
            heapq.heappush(queue, (free_at + length / events, length / events, events - 1))
    while queue:
        when, gap, left = heapq.heappop(queue)
        free_at = max(free_at, when) + event_seconds
        if left:
            # A report is waited for by nobody: the trial goes on meanwhile.
            heapq.heappush(queue, (when + gap, gap, left - 1))
            continue
        ended = max(ended, free_at)
        if (length := next(waiting, None)) is not None:
            heapq.heappush(queue, (free_at + length / events, length / events, events - 1))
    return ended


def lengths(seed: int) -> list[float]:
    """Seconds of realistic trials: T of 2, 4 and 8 takes 1, 1.5 and 2.5 times as long, and some nodes are slow."""
    generator = random.Random(seed)
    found = []
    for index in range(TRIALS):
        base = 60 * MINUTES * (1, 1.5, 2.5)[index % 3] / 1.5
        slow = SLOWER if generator.random() < STRAGGLERS else 1
        found.append(base * slow * generator.lognormvariate(0, SPREAD))
    return found


def simulated(event_seconds: float) -> list[report.Measure]:
    """Makespan on 1,000 nodes over the bound, in the file's order, longest T first, and with the controller's work."""
    file, first, busy, share = [], [], [], []
    for seed in range(5):
        drawn = lengths(seed)
        least = forecast.bound(drawn, NODES)
        by_steps = [length for steps in (2, 1, 0) for length in drawn[steps::3]]
        file.append(forecast.makespan(drawn, NODES) / least)
        first.append(forecast.makespan(by_steps, NODES) / least)
    drawn = lengths(0)
    by_steps = [length for steps in (2, 1, 0) for length in drawn[steps::3]]
    total = controlled(by_steps, NODES, event_seconds, EPOCHS)
    busy.append(total / forecast.bound(drawn, NODES))
    share.append(event_seconds * EPOCHS * TRIALS / total)
    what = f"{TRIALS} trials on {NODES} nodes"
    return [
        report.measure(f"{what}: makespan over the bound, in the file's order", statistics.median(file), "ratio"),
        report.measure(f"{what}: makespan over the bound, longest T first", statistics.median(first), "ratio",
                       at_most=1.1),
        report.measure(f"{what}: the same with one controller for all events", busy[0], "ratio", at_most=1.1),
        report.measure(f"{what}: share of the time that the controller works", share[0], "ratio", at_most=0.5),
    ]  # fmt: skip


def main() -> None:
    """Measure, simulate, print, write."""
    prepare.prepare("digits")
    small, large = bookkeeping(TRIALS // 10), bookkeeping(TRIALS)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    growth = max(b["value"] / a["value"] for a, b in zip(small, large, strict=True) if b["value"] > 0.05)
    few, many, long = tune_seconds(20, 1), tune_seconds(320, 1), tune_seconds(20, 101)
    each, event = (many - few) / 300, max((long - few) / (20 * 100), 0.0)
    measures = [
        *large,
        report.measure(
            "our work for a trial, all of the above", sum(m["value"] for m in large), "ms/trial", at_most=20
        ),
        report.measure("largest growth of a trial's work from 1,000 to 10,000", growth, "ratio", at_most=2),
        report.measure(f"memory of all of it, {TRIALS} trials", memory / 1e9, "GB"),
        report.measure("a further trial of a real sweep, one step on two places", each, "s"),
        report.measure("a further epoch of a real sweep, one step and a checkpoint on two places", event, "s"),
        *simulated(event),
    ]
    report.write("scheduler", measures, "python benchmarks/scheduler.py")


if __name__ == "__main__":
    main()
