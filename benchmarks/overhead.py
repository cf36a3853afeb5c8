"""What the harness adds: an epoch against the same loop written plainly under torchrun; start-up, trials, memory.

An epoch is training, validation and, in the harness, all that comes with it (figures, the best weights, a checkpoint on
disk). Both ways alternate in the same processes, which torchrun has started: 1 and 2 workers. What Ray's processes add
beside them is told by the same epochs in a whole `harness sweep`. Start-up and seconds a further trial are those of
whole commands, against plain Ray Tune whose trials do nothing.

Command: python benchmarks/overhead.py
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import psutil
import report
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from harness import plan, plugins, record, trial
from harness.config import Evaluation, Experiment
from harness.data import loader

TARGET = 1.025
BATCH_SIZE = 128
EMPTY_TUNE = """
import sys, tempfile
from ray import tune
import ray
ray.init(num_cpus=2, address="local", logging_level="error")
tune.Tuner(
    lambda config: tune.report({"done": 1}), param_space={"number": tune.grid_search(list(range(int(sys.argv[1]))))},
    tune_config=tune.TuneConfig(reuse_actors=True),
    run_config=tune.RunConfig(storage_path=tempfile.mkdtemp(), verbose=0),
).fit()
"""


def experiment(*, epochs: int, seeds: int = 1, workers: int = 1, samples: int = 2048, folder: str = "r") -> Experiment:
    """Surrogate-gradient training at T = 4 with a small network of convolutions, on noise of CIFAR's size."""
    return Experiment.model_validate(
        {
            "name": "overhead", "dataset": {"name": "noise", "train": samples, "test": 64, "validation": 0.05},
            "network": {"name": "convnet", "stages": [[16], [32]]}, "methods": ["bptt"], "time_steps": 4,
            "seeds": list(range(seeds)), "train": {"epochs": epochs, "batch_size": BATCH_SIZE},
            "evaluation": {"latency_repeats": 0}, "scale": {"workers": workers}, "tracking": {"mlflow": False},
            "results": folder,
        }
    )  # fmt: skip


def plain_epochs(planned: plan.Trial, data: loader.Data, epochs: int, rank: int, world: int) -> list[float]:
    """Seconds of each epoch of a loop as one would write it, with the same network, batches and steps."""
    method, recipe = plugins.load("methods", planned.method), planned.train
    config, task = planned.config(), planned.task(data.info)
    torch.manual_seed(0)
    net = method.build(config, task)
    model = DistributedDataParallel(net) if world > 1 else net
    optimizer = torch.optim.SGD(net.parameters(), lr=recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay)
    stamps = [time.perf_counter()]
    for epoch in range(epochs):
        net.train()
        for x, y in data.batches("train", recipe.batch_size, epoch=epoch, rank=rank, world=world):
            F.cross_entropy(model(x.expand(task.time_steps, *x.shape)).mean(0), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        net.eval()
        correct = torch.zeros(())
        with torch.no_grad():
            for x, y in data.batches("validation", 256, rank=rank, world=world):
                correct += (method.predict(net, x.expand(task.time_steps, *x.shape), config)[-1].argmax(1) == y).sum()
        if world > 1:
            dist.all_reduce(correct)
        stamps.append(time.perf_counter())
    return [after - before for before, after in pairwise(stamps)]


def harness_epochs(planned: plan.Trial, folder: str, rank: int, world: int) -> list[float]:
    """Seconds of each epoch but the first in `trial.run`, as they lie between two reports."""
    stamps: list[float] = []
    shared = trial.Run(experiment="overhead", folder=folder, evaluation=Evaluation(latency_repeats=0))
    trial.run(planned, shared, rank=rank, world=world, report=lambda _: stamps.append(time.perf_counter()))
    return [after - before for before, after in pairwise(stamps)]


def side_by_side(folder: str, repetitions: int, epochs: int) -> None:
    """In each process that torchrun has started: both ways in turn; rank 0 writes the seconds of an epoch."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo")
    asked = experiment(epochs=epochs, workers=world)
    data = loader.open_data(asked.dataset)
    (planned,) = plan.expand(asked, data.info)
    found = []
    for number in range(repetitions):
        plain = plain_epochs(planned, data, epochs, rank, world)[1:]
        ours = harness_epochs(planned, f"{folder}/{world}-{number}", rank, world)
        found.append([median(plain), median(ours)])
    if rank == 0:
        Path(folder, f"{world}.json").write_text(json.dumps(found))
    if world > 1:
        dist.destroy_process_group()


def torchrun(folder: str, workers: int, repetitions: int, epochs: int) -> list[list[float]]:
    """Seconds of an epoch, plain and in the harness, of every repetition."""
    options = ["--standalone", f"--nproc-per-node={workers}", __file__, "--folder", folder, "--side-by-side"]
    command = [sys.executable, "-m", "torch.distributed.run", *options]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, f"--repetitions={repetitions}", f"--epochs={epochs}"], check=True, env=environment)
    return json.loads(Path(folder, f"{workers}.json").read_text())


def sweep(asked: Experiment, folder: str) -> tuple[float, list[record.Record], int]:
    """Seconds of a whole `harness sweep`, its records, and the most bytes that a process of a trial took."""
    file = Path(folder) / "overhead.yaml"
    file.write_text(json.dumps(asked.model_copy(update={"results": folder}).model_dump(mode="json")))
    seconds, most = watched([sys.executable, "-m", "harness", "sweep", str(file), "--quiet"])
    return seconds, list(record.read_all([Path(folder) / "overhead"])), most


def watched(command: list[str]) -> tuple[float, int]:
    """Seconds of a command, and the resident set of the largest process that runs a trial of it."""
    started, most = time.perf_counter(), [0]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def look() -> None:
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):  # one that ends while it is looked at
                for child in psutil.Process(process.pid).children(recursive=True):
                    if child.name().startswith(("ray::Implicit", "ray::_Inner", "ray::RayTrainWork")):
                        most[0] = max(most[0], child.memory_info().rss)
            time.sleep(0.2)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors.decode()[-2000:]}")
    return time.perf_counter() - started, most[0]


def epoch_measures(folder: str, repetitions: int, epochs: int) -> list[report.Measure]:
    """An epoch in the harness over a plain one, side by side; and in a sweep, with Ray's processes beside it."""
    rows = []
    for workers in (1, 2):
        found = torchrun(folder, workers, repetitions, epochs)
        plain, ours = (median(seconds) for seconds in zip(*found, strict=True))
        ratios = [after / before for before, after in found]
        of = f"{workers} worker{'s' if workers > 1 else ''}"
        rows += [
            report.measure(f"epoch, plain loop under torchrun, {of}", plain, "s"),
            report.measure(f"epoch, harness, {of}", ours, "s"),
            report.measure(f"harness over plain, {of}, median of pairs", median(ratios), "ratio", at_most=TARGET),
            report.measure(f"harness over plain, {of}, smallest pair", min(ratios), "ratio"),
            report.measure(f"harness over plain, {of}, largest pair", max(ratios), "ratio"),
        ]
        _, (result,), _ = sweep(experiment(epochs=epochs, workers=workers), f"{folder}/ray{workers}")
        seconds = median([e.seconds + (e.evaluation_seconds or 0) for e in result.history[1:]])
        rows.append(report.measure(f"epoch in a sweep over plain, {of}, one run", seconds / plain, "ratio"))
    return rows


def command_measures(folder: str) -> list[report.Measure]:
    """Start-up, each further trial and its memory, against plain Tune."""
    rows = []
    tune = Path(folder) / "tune.py"
    tune.write_text(EMPTY_TUNE)
    first, rss = watched([sys.executable, str(tune), "1"])
    many, _ = watched([sys.executable, str(tune), "10"])
    rows += [
        report.measure("plain Tune, one empty trial, whole command", first, "s"),
        report.measure("plain Tune, each further empty trial", (many - first) / 9, "s"),
        report.measure("plain Tune, resident set of a trial's process", rss / 2**20, "MiB"),
    ]
    for workers, more in ((1, 9), (2, 1)):
        runs = []
        for trials in (1, 1 + more):
            place = tempfile.mkdtemp(dir=folder)
            runs.append(sweep(experiment(epochs=1, seeds=trials, workers=workers, samples=256), place))
        of = f"{workers} worker{'s' if workers > 1 else ''}"
        rows += [
            report.measure(f"harness, one trial, {of}, whole command", runs[0][0], "s"),
            report.measure(f"harness, each further trial, {of}", (runs[1][0] - runs[0][0]) / more, "s"),
            report.measure(f"harness, resident set of a trial's largest process, {of}", runs[0][2] / 2**20, "MiB"),
        ]
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4, help="Of each run; the first is not counted.")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--side-by-side", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=report.FOLDER)
    options = parser.parse_args()
    if options.side_by_side:
        side_by_side(options.folder, options.repetitions, options.epochs)
        return
    loader.open_data(experiment(epochs=1).dataset)
    with tempfile.TemporaryDirectory(prefix="overhead") as folder:
        for name in ("ray1", "ray2"):
            Path(folder, name).mkdir()
        measures = epoch_measures(folder, options.repetitions, options.epochs) + command_measures(folder)
    report.write("overhead", measures, "python benchmarks/overhead.py", folder=options.results)


if __name__ == "__main__":
    main()
