"""Kills random processes of a small sweep and checks that nothing of it is lost, changed or counted twice.

Command: python scripts/chaos.py --kills 10 --seed 0 [--workers 2]
Time: about half a minute a kill. Exit code 1 when anything differs from the undisturbed run.
"""

import argparse
import collections
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))

from harness import tracking
from harness.data import prepare
from tests import faults

EPOCHS_PER_KILL = 50
"""Several seconds of training, so that it does not end before it is killed."""
LONGEST_DELAY_SECONDS = 3.0
"""A process is killed at a random moment within so many seconds after a trial saved itself."""
MOST_SECONDS = 180.0
"""Without progress for so long the sweep counts as hanging."""
KINDS = {
    "driver": (), "trial": ("ray::Implicit", "ray::with_workers"), "worker": ("ray::RayTrainWorker",),
    "controller": ("ray::TrainController",), "raylet": ("raylet",), "gcs": ("gcs_server",),
}  # fmt: skip


def sweep(folder: Path, workers: int, kills: int) -> faults.Sweep:
    """Trials long enough for so many kills, tracked in a database beside them."""
    return faults.Sweep(
        folder, methods=["bptt"], seeds=[0, 1] if workers == 1 else 0,
        train={"epochs": EPOCHS_PER_KILL * max(kills, 1), "batch_size": 16},
        scale={"workers": workers}, sweep={"max_failures": kills},
        tracking={"mlflow": True, "uri": f"sqlite:///{folder}/mlflow.db"},
    )  # fmt: skip


def undisturbed(whole: faults.Sweep) -> faults.Sweep:
    """The same sweep, left in peace."""
    if whole.content["scale"]["workers"] == 1:
        return whole.undisturbed()
    driver = whole.started()
    with faults.ended(driver):
        if code := driver.ended():
            raise SystemExit(f"the undisturbed sweep ended with {code}:\n{driver.err}")
    return whole


def victims(driver: faults.Driver) -> dict[str, list[psutil.Process]]:
    """Who can be killed now, by what it is."""
    found = {"driver": [psutil.Process(driver.process.pid)]}
    for process in driver.descendants():
        try:
            title = os.path.basename(process.cmdline()[0])
        except (psutil.NoSuchProcess, IndexError):
            continue
        for kind, names in KINDS.items():
            if title.startswith(names or "-"):
                found.setdefault(kind, []).append(process)
    return found


def disturbed(target: faults.Sweep, kills: int, chance: random.Random, kinds: list[str]) -> None:
    """Run the sweep to its end, starting it again whenever it ends before, and kill so many processes on the way."""
    started, left, starts = time.monotonic(), kills, 1
    driver = target.started()
    try:
        while True:
            before = target.checkpoints()

            def moved(driver: faults.Driver = driver, before: dict[Path, int] = before) -> bool:
                return driver.process.poll() is not None or target.checkpoints() != before

            faults.wait_for(moved, MOST_SECONDS)
            if left:
                time.sleep(chance.uniform(0, LONGEST_DELAY_SECONDS))
            elif driver.ended(MOST_SECONDS) == 0:
                print(f"{time.monotonic() - started:6.1f} s  finished: {driver.err.strip()}", flush=True)
                return
            code = driver.process.poll()
            if code == 0:
                print(f"finished with {left} kills left over: {driver.err.strip()}", flush=True)
                return
            if code is not None:
                starts += 1
                last = driver.err.strip().splitlines()[-1:]
                print(f"{time.monotonic() - started:6.1f} s  start {starts}, after exit code {code} {last}", flush=True)
                if starts > 3 * kills + 3:
                    raise SystemExit(f"it does not come to an end:\n{driver.err}")
                driver = target.started()
                continue
            found = {kind: those for kind, those in victims(driver).items() if kind in kinds}
            if not found:
                continue
            kind = chance.choice(sorted(found))
            one = chance.choice(found[kind])
            left -= 1
            print(f"{time.monotonic() - started:6.1f} s  kill {kills - left}: {kind} {one.pid}", flush=True)
            if kind == "driver":
                driver.send(signal.SIGKILL)
                driver.ended()
            else:
                faults.kill([one])
    finally:
        driver.destroy()


def wrong(target: faults.Sweep, whole: faults.Sweep) -> list[str]:
    """What differs from the undisturbed sweep, and what was sent to MLflow more or less than once."""
    client = tracking._client(target.content["tracking"]["uri"])
    known = client.get_experiment_by_name(target.content["name"])
    runs = client.search_runs([known.experiment_id]) if known else []
    sent = collections.Counter(run.data.tags["harness.trial"] for run in runs if "harness.trial" in run.data.tags)
    twice = [f"{name}: {sent[name]} runs in MLflow" for name in target.records() if sent[name] != 1]
    return target.differences(whole) + twice


def main() -> None:
    """Run, kill, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(KINDS), help="what is killed, separated by commas")
    options = parser.parse_args()
    prepare.prepare("digits")
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        whole = undisturbed(sweep(Path(folder) / "whole", options.workers, options.kills))
        target = sweep(Path(folder) / "disturbed", options.workers, options.kills)
        disturbed(target, options.kills, random.Random(options.seed), options.kinds.split(","))
        problems = wrong(target, whole)
        restarts = sum(result.restarts for result in target.records().values())
    print("\n".join(problems) or f"same records and weights, nothing twice; trials were continued {restarts} times")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
