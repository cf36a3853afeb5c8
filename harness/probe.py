"""A minute of real training: a few steps of representative trials, run as a sweep, so that a forecast has measurements.

Every method is tried with its fewest and with its most time steps, on as many places at once as the sweep would have.
"""

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from harness import stages, storage
from harness.config import Experiment
from harness.forecast import Overhead
from harness.plan import Trial
from harness.record import Record

EPOCHS, BATCHES = 4, 20
"""Of a probe. The first epoch warms up; each has so many steps, or as many as the data have."""
FILE = "probe-{machine}.json"
"""What a probe leaves in the experiment's folder, for forecasts made elsewhere."""


def shortened(trials: Sequence[Trial]) -> list[Trial]:
    """One short trial for each method and network at its smallest and its largest T, after what each starts from."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(f"{trial.label} {trial.network}", []).append(trial)
    chosen: dict[str, Trial] = {}
    for group in groups.values():
        for end in (min, max):
            trial = _short(end(group, key=lambda trial: trial.time_steps))
            for each in [*stages.lineage(trial), trial]:
                chosen.setdefault(each.id, each)
    return list(chosen.values())


def run(experiment: Experiment, trials: Sequence[Trial]) -> tuple[list[Record], Overhead]:
    """Train the shortened trials and return their records, and what the sweep took beside them."""
    from harness import sweep

    probes = shortened(trials)
    with tempfile.TemporaryDirectory(prefix="harness-probe-") as folder:
        quiet = experiment.tracking.model_copy(update={"mlflow": False})
        grid = experiment.sweep.model_copy(update={"search": "grid", "trials": None, "space": {}, "asha": None})
        ours = experiment.model_copy(update={"results": folder, "tracking": quiet, "sweep": grid})
        started = time.time()
        found = sweep.run(ours, probes).records
        return found, _overhead(found, started, time.time())


def keep(records: Iterable[Record], overhead: Overhead, machine: str, folder: Path) -> Path:
    """Write what a probe measured on a machine beside the experiment's records."""
    file = folder / FILE.format(machine="".join(letter if letter.isalnum() else "_" for letter in machine))
    storage.make_folder(folder)
    content = {
        "machine": machine,
        "records": [result.model_dump(mode="json", exclude_none=True) for result in records],
        "overhead": overhead.__dict__,
    }
    storage.write_atomic(file, json.dumps(content, indent=1) + "\n")
    return file


def kept(folder: Path) -> Iterator[tuple[list[Record], Overhead, str]]:
    """What earlier probes of an experiment measured, and on which machine."""
    for name in sorted(storage.names(folder)):
        if name.startswith("probe-") and name.endswith(".json"):
            content = json.loads((folder / name).read_bytes())
            records = [Record.model_validate(each) for each in content["records"]]
            yield records, Overhead(**content["overhead"]), content["machine"]


def _short(trial: Trial) -> Trial:
    recipe = trial.train
    train = recipe.model_copy(
        update={
            "epochs": min(recipe.epochs, EPOCHS),
            "limit_batches": min(recipe.limit_batches or BATCHES, BATCHES),
            "milestones": tuple(epoch for epoch in recipe.milestones if epoch < EPOCHS),
        }
    )
    return trial.model_copy(update={"train": train, "start": _short(trial.start) if trial.start else None})


def _overhead(found: Sequence[Record], started: float, ended: float) -> Overhead:
    """What a sweep of short trials took beside them, from when they began and how long they took."""
    spans = [
        (begun, begun + result.wall_seconds)
        for result in found
        if result.started and result.wall_seconds is not None
        for begun in [datetime.fromisoformat(result.started).timestamp()]
    ]
    if not spans:
        return Overhead()
    first, last = min(span[0] for span in spans), max(span[1] for span in spans)
    busy = sum(end - begin for begin, end in spans)
    # Places that were used at the same time, on average over each trial's begin.
    places = max(sum(begin <= other[0] < end for begin, end in spans) for other in spans)
    gap = max((last - first) * places - busy, 0.0) / len(spans)
    command = max(first - started, 0.0) + max(ended - last, 0.0)
    return Overhead(command, min(gap, busy / len(spans)), source="probe")
