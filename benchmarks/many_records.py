"""Ten thousand records: seconds and memory of a whole `harness table`, beside a bare parse of the same files.

Every command runs in a process of its own, in turn with the bare parse (a process that parses each file with Python's
`json`), after one round that fills the file cache. Memory is the largest sum over the process and all that it started
of what each has for itself and its share of the rest (proportional set size), sampled in runs of their own.

Command: python benchmarks/many_records.py
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import report
import synthetic_records

SECONDS, MEGABYTES = 2.0, 500.0
FORMATS = ("md", "csv", "terminal")
BARE = """
import json, sys
from pathlib import Path
print(sum(len(json.loads(file.read_bytes())) for file in sorted(Path(sys.argv[1]).rglob("*.json"))))
"""


def seconds(command: list[str]) -> float:
    """Wall-clock time of a command that has to succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def peak_bytes(command: list[str]) -> int:
    """The most memory that a command and the processes it starts take together, sampled every 10 ms."""
    most = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            most = max(most, taken(root))
            time.sleep(0.01)
    assert process.returncode == 0, f"{' '.join(command)}: exit code {process.returncode}"
    return most


def taken(root: psutil.Process) -> int:
    """Bytes of a process and its descendants; none once it has ended."""
    try:
        return sum(each.memory_full_info().pss for each in [root, *root.children(recursive=True)])
    except psutil.Error:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="holds the records already")
    parser.add_argument("--results", type=Path, default=report.FOLDER)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = asked.folder or Path(made)
        if not asked.folder:
            synthetic_records.write(folder, asked.records)
        commands = {
            f"table as {name}": [sys.executable, "-m", "harness", "table", str(folder), "--format", name]
            for name in FORMATS
        }
        commands["bare parse"] = [sys.executable, "-c", BARE, str(folder)]
        rounds = [{name: seconds(command) for name, command in commands.items()} for _ in range(asked.repetitions + 1)]
        peaks = {name: peak_bytes(command) for name, command in commands.items()}
    measures = []
    for name in commands:
        took = [each[name] for each in rounds[1:]]
        target = (SECONDS, MEGABYTES) if name != "bare parse" else (None, None)
        measures += [
            report.measure(f"{name}, median", statistics.median(took), "s", at_most=target[0]),
            report.measure(f"{name}, slowest", max(took), "s"),
            report.measure(f"{name}, peak memory", peaks[name] / 1e6, "MB", at_most=target[1]),
        ]
    ratios = [each["table as csv"] / each["bare parse"] for each in rounds[1:]]
    measures.append(report.measure("table as csv to bare parse, median", statistics.median(ratios), "times"))
    report.write(
        "many_records", measures, f"python benchmarks/many_records.py --records {asked.records}", folder=asked.results
    )


if __name__ == "__main__":
    main()
