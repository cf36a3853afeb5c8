"""How near `harness plan` comes: forecasts from records and from a probe against the sweeps themselves, one by one.

Command: python benchmarks/forecast.py

Both experiments are cut down to some minutes in all. For each, half of the seeds is swept; from those records and from
a probe the wall-clock of the rest is forecast; then the rest is swept. Landed records under results/ are asked, too,
where they are of this machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report

TARGET = 0.25
"""Largest error, as a share of what the sweep then took."""
REDUCED = {
    "digits": ("time_steps=[2,8]", "train.epochs=10"),
    "digits_events": ("time_steps=[5,10]", "train.epochs=6"),
}
FIRST, REST = "seeds=[0]", "seeds=[1,2]"


def harness(command: str, name: str, folder: Path, *options: str) -> str:
    """Standard output of one harness command on a reduced experiment."""
    sets = [f"--set={each}" for each in (*REDUCED[name], "tracking.mlflow=false", f"results={folder}")]
    line = [sys.executable, "-m", "harness", command, f"configs/{name}.yaml", *sets, *options]
    result = subprocess.run(line, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def seconds(name: str, folder: Path, seeds: str) -> float:
    """Wall-clock of a sweep, from the command to its end."""
    started = time.perf_counter()
    harness("sweep", name, folder, f"--set={seeds}", "--quiet", "--json")
    return time.perf_counter() - started


def forecast(name: str, folder: Path, *options: str) -> dict:
    """What `harness plan` says about the rest of the seeds."""
    return json.loads(harness("plan", name, folder, f"--set={REST}", "--json", "--quiet", *options))


def measures(name: str) -> list[report.Measure]:
    """Forecasts and truth for one experiment."""
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        folder, empty = Path(temporary) / "swept", Path(temporary) / "empty"
        first = seconds(name, folder, FIRST)
        found.append(report.measure(f"{name}: sweep of the first seed", first, "s"))
        probed = forecast(name, empty, "--probe")
        # Records say what trials take, and nothing of what starting a sweep takes: that alone is taken from the probe.
        (kept,) = (empty / name).glob("probe-*.json")
        kept.write_text(json.dumps(json.loads(kept.read_text()) | {"records": []}))
        from_records = forecast(name, folder, "--records", str(empty / name))
        landed = forecast(name, empty, "--records", f"results/{name}")
        truth = seconds(name, folder, REST)
    found.append(report.measure(f"{name}: sweep of two more seeds", truth, "s"))
    for source, said in (("a probe", probed), ("records of one seed", from_records), ("landed records", landed)):
        if not said["trials"]["forecast"]:
            continue
        wall = said["wall_seconds"]
        found += [
            report.measure(f"{name}: forecast from {source}", wall["expected"], "s"),
            report.measure(f"{name}: error of the forecast from {source}", abs(wall["expected"] / truth - 1), "ratio",
                           at_most=TARGET),
            report.measure(f"{name}: forecast from {source}, lower end over truth", wall["low"] / truth, "ratio"),
            report.measure(f"{name}: forecast from {source}, upper end over truth", wall["high"] / truth, "ratio"),
        ]  # fmt: skip
    return found


def main() -> None:
    """Forecast, sweep, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(REDUCED), help="one experiment; nothing is written")
    options = parser.parse_args()
    if options.only:
        for found in measures(options.only):
            print(found)
        return
    report.write("forecast", [found for name in REDUCED for found in measures(name)], "python benchmarks/forecast.py")


if __name__ == "__main__":
    main()
