"""BPTT, OTTT and SLTT beside SpikingJelly and snnTorch: time and peak memory of a training step on one network.

Command: python benchmarks/peers.py [--environment FOLDER]

The network and the contenders are in `peers_nets.py`. Every contender runs in a process of its own, with one thread and
with freed memory kept (`harness/allocator.py`); the others' packages are installed into a separate environment, with
the torch that this harness has. Seconds are CPU time, so that what else runs on the machine counts less; the contenders
take their steps in turn, and a ratio is the median of the ratios turn by turn. SpikingJelly and snnTorch are given the
faster of the two memory layouts for images, by a first look. Peak memory is that of new processes that return freed
memory to the system, above what they held before their first step.

That it is the same network is checked: from the same weights, all give the same scores. snnTorch has no OTTT and no
SLTT: these are held against its BPTT. All are as they come, without torch.compile. About
20 minutes on a busy machine.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import report

ROOT = Path(__file__).parent.parent
NETS = Path(__file__).parent / "peers_nets.py"
VERSIONS = {"spikingjelly": "2.0.0", "snntorch": "1.0.0"}
METHODS = ("bptt", "ottt", "sltt")
TIME_STEPS = 4
MORE_TIME_STEPS = 8
REPETITIONS = 9
LEAST_SPEED_RATIO = 1.0
MOST_MEMORY_GROWTH = 1.1
AGREEMENT = 1e-6


def environment(folder: Path) -> Path:
    """The Python of an environment that holds the peers and our torch; made on the first call."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        packages = [f"{name}=={version}" for name, version in VERSIONS.items()]
        torch = f"torch=={importlib.metadata.version('torch').split('+')[0]}"
        subprocess.run([python, "-m", "pip", "install", "--quiet", torch, *packages], check=True)
    return python


class Contender:
    """A process that holds one network and takes steps when asked to."""

    def __init__(self, python: Path | str, name: str, method: str, time_steps: int, layout: str, memory: str) -> None:
        variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [str(python), str(NETS), name, method, str(time_steps), layout, memory]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=variables
        )

    def ask(self, question: str) -> Any:
        """Its answer; see `peers_nets.serve`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.process.args!r}: exit status {self.process.wait()}")
        return json.loads(answer)

    def end(self) -> None:
        """Let the process end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


Start = Callable[..., Contender]
"""(name, method, time_steps, layout, memory) -> a new contender."""


def rivals(method: str) -> dict[str, str]:
    """Who a method of ours is held against, and with which method of theirs."""
    return {"spikingjelly": method, "snntorch": "bptt"}


def faster_layout(start: Start, name: str, method: str) -> str:
    """The memory layout of images with which a contender is faster."""
    seconds = {}
    for layout in ("channels_last", "contiguous"):
        contender = start(name, method, TIME_STEPS, layout, "keep")
        seconds[layout] = min(contender.ask("step") for _ in range(4))
        contender.end()
    return min(seconds, key=lambda layout: seconds[layout])


def times(start: Start, method: str, layouts: dict[str, str]) -> dict[str, list[float]]:
    """Seconds of each step of every contender, the steps being taken in turn."""
    running = {"ours": start("ours", method, TIME_STEPS, "channels_last", "keep")}
    for name, theirs in rivals(method).items():
        running[name] = start(name, theirs, TIME_STEPS, layouts[name], "keep")
    taken: dict[str, list[float]] = {name: [] for name in running}
    for repetition in range(1 + REPETITIONS):  # the first is the warm-up
        for name, contender in running.items():
            seconds = contender.ask("step")
            if repetition:
                taken[name].append(seconds)
    for contender in running.values():
        contender.end()
    return taken


def check_agreement(start: Start, method: str) -> None:
    """Stop unless those who have the method give the same scores, and not all the same one.

    All in one memory layout: in another one convolutions round otherwise, which flips spikes.
    """
    same = ["ours", *(name for name, theirs in rivals(method).items() if theirs == method)]
    scores = {}
    for name in same:
        contender = start(name, method, TIME_STEPS, "channels_last", "keep")
        scores[name] = [score for row in contender.ask("scores") for score in row]
        contender.end()
    spread = max(scores["ours"]) - min(scores["ours"])
    for name, theirs in scores.items():
        distance = max(abs(a - b) for a, b in zip(scores["ours"], theirs, strict=True))
        if distance > AGREEMENT or spread < 100 * AGREEMENT:
            raise SystemExit(
                f"{method}: {name}'s scores are off by {distance}, from the lowest to the highest {spread}"
            )


def peak(start: Start, name: str, method: str, time_steps: int, layout: str) -> float:
    """Median peak memory of two steps in new processes, in MiB."""
    found = []
    for _ in range(3):
        contender = start(name, method, time_steps, layout, "release")
        found.append(contender.ask("peak") / 2**20)
        contender.end()
    return median(found)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "snn-harness" / "peers"
    parser.add_argument("--environment", type=Path, default=cache, help="where the peers are installed")
    theirs = environment(parser.parse_args().environment)

    def start(name: str, *rest: Any) -> Contender:
        return Contender(sys.executable if name == "ours" else theirs, name, *rest)

    measures = []
    for method in METHODS:
        check_agreement(start, method)
        layouts = {name: faster_layout(start, name, its) for name, its in rivals(method).items()}
        taken = times(start, method, layouts)
        ours = peak(start, "ours", method, TIME_STEPS, "channels_last")
        name = f"{method}, T = {TIME_STEPS}"
        measures.append(report.measure(f"{name}: CPU time of a step", median(taken["ours"]), "s"))
        measures.append(report.measure(f"{name}: peak memory", ours, "MiB"))
        for rival, its in rivals(method).items():
            label = f"{name}: {rival} {VERSIONS[rival]}" + ("" if its == method else f"'s {its}")
            ratio = median(a / b for a, b in zip(taken[rival], taken["ours"], strict=True))
            memory = peak(start, rival, its, TIME_STEPS, layouts[rival])
            measures += [
                report.measure(f"{label} ({layouts[rival]}), CPU time of a step", median(taken[rival]), "s"),
                report.measure(f"{label}, time over ours", ratio, "ratio", at_least=LEAST_SPEED_RATIO),
                report.measure(f"{label}, peak memory over ours", memory / ours, "ratio"),
            ]
        growth = peak(start, "ours", method, MORE_TIME_STEPS, "channels_last") / ours
        bound = None if method == "bptt" else MOST_MEMORY_GROWTH
        name = f"{method}: memory at T = {MORE_TIME_STEPS} over T = {TIME_STEPS}"
        measures.append(report.measure(name, growth, "ratio", at_most=bound))
    report.write("peers", measures, "python benchmarks/peers.py")


if __name__ == "__main__":
    main()
