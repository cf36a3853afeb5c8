"""What a death costs: seconds from a kill until the trial has saved something new, and steps that are done again.

Command: python benchmarks/recovery.py [--repetitions 1]
"""

import argparse
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import report
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from harness import checkpoint
from harness.data import prepare
from tests import faults

EPOCHS, BATCH_SIZE, CHECKPOINT_STEPS = 60, 4, 25
SAMPLES = 1293
"""Of digits, for training."""
PER_EPOCH = SAMPLES // BATCH_SIZE


def step(sweep: faults.Sweep) -> int:
    """The update after which the newest state was saved."""
    (folder,) = {file.parent for file in faults.wait_for(sweep.checkpoints)}
    state = checkpoint.load(folder)
    assert state is not None
    training = state["training"]
    inside = training["midway"][0]["pass"]["steps"] if "midway" in training else 0
    return PER_EPOCH * len(training["history"]) + inside


def recovery(kind: str, fleet: faults.Cluster, *, workers: int, steps: int | None, folder: Path) -> tuple[float, int]:
    """Seconds from the kill to a newer state, and updates between the last state before the kill and the kill itself.

    How far a trial was when it died is told by how many updates it made a second until then.
    """
    block: dict[str, Any] = {"max_failures": 9, **({"checkpoint_steps": steps} if steps else {})}
    sweep = faults.Sweep(
        folder, methods=["bptt"], seeds=0, scale={"workers": workers}, sweep=block,
        train={"epochs": EPOCHS, "batch_size": BATCH_SIZE},
    )  # fmt: skip
    driver = sweep.started(**fleet.client)
    again = None
    try:
        began = sweep.progressed()
        if kind == "node":
            fleet.add(2)  # where it goes on: the trial is on the other one
        first, since = step(sweep), time.perf_counter()
        sweep.progressed(beyond=began)
        time.sleep(2)  # for a pace
        before = sweep.checkpoints()
        saved = step(sweep)
        pace = (saved - first) / (time.perf_counter() - since)
        age = time.time() - max(before.values()) / 1e9
        killed = time.perf_counter()
        if kind == "driver":
            driver.send(signal.SIGKILL)
            driver.ended()
            again = sweep.started(**fleet.client)
        elif kind == "node":
            fleet.nodes[1].kill()
            fleet.nodes[1] = fleet.nodes.pop()
        else:
            names = {"worker": "ray::RayTrainWorker" if workers > 1 else "ray::Implicit",
                     "controller": "ray::TrainController"}  # fmt: skip
            faults.kill(fleet.workers(names[kind])[:1])
        late = sweep.checkpoints()
        sweep.progressed(beyond=late)
        return time.perf_counter() - killed, round(max(pace * age, 0))
    finally:
        driver.destroy()
        if again:
            again.destroy()


def measured(repetitions: int, kinds: list[str]) -> list[report.Measure]:
    """Every kind of death with states at the ends of epochs and within them."""
    found: list[report.Measure] = []
    with faults.cluster(0, dashboard=True) as fleet, tempfile.TemporaryDirectory(prefix="recovery-") as folder:
        fleet.add(2)
        number = 0
        for kind, workers in [("worker", 1), ("driver", 1), ("worker", 2), ("controller", 2), ("node", 2)]:
            if kind not in kinds:
                continue
            for steps in (None, CHECKPOINT_STEPS):
                figures = []
                for _ in range(repetitions):
                    number += 1
                    place = Path(folder) / str(number)
                    figures.append(recovery(kind, fleet, workers=workers, steps=steps, folder=place))
                    print(kind, workers, steps, figures[-1], flush=True)
                every = f"every {steps} steps" if steps else f"every epoch of {PER_EPOCH} steps"
                name = f"{kind} killed, {workers} worker(s), saved {every}"
                seconds, lost = zip(*figures, strict=True)
                found.append(report.measure(f"{name}: training again after", statistics.median(seconds), "s"))
                found.append(report.measure(f"{name}: work lost", statistics.median(lost), "steps"))
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--kinds", default="worker,driver,controller,node")
    parser.add_argument("--folder", type=Path, default=report.FOLDER)
    options = parser.parse_args()
    torch.set_num_threads(1)
    prepare.prepare("digits")
    measures = measured(options.repetitions, options.kinds.split(","))
    report.write("recovery", measures, "python benchmarks/recovery.py", folder=options.folder)


if __name__ == "__main__":
    main()
