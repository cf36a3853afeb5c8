"""What `harness plan` finds out and says: what records and probes measured, the places that there are, the forecast."""

import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import harness
from harness import backlog, cluster_file, forecast, listing, places, probe, provenance, record, search, storage, timing
from harness.config import Experiment
from harness.data import source
from harness.experiment_file import ConfigError
from harness.forecast import Forecast, Overhead
from harness.places import Need, Node
from harness.plan import Trial
from harness.timing import Expected, Measured, Span


@dataclass(frozen=True)
class Site:
    """Where a sweep would run."""

    name: str
    nodes: Sequence[Node]
    need: Need
    places: int
    is_here: bool
    """Whether this is the machine that the command runs on."""
    prices: Mapping[str, float]


def site(experiment: Experiment, file: Path | None) -> Site:
    """The cluster of a file, else the one that RAY_ADDRESS names, else this machine.

    Raises ConfigError, with the arithmetic, when a trial can never fit there.
    """
    from harness import cluster

    scale, limit = experiment.scale, experiment.sweep.max_concurrent
    if file is None and cluster.is_given():
        from harness import capacity

        with cluster.connected(scale):
            room, now = capacity.room(scale, limit), capacity.nodes()
        nodes = room.grown or now
        return Site("the connected cluster", nodes, room.need, room.places(nodes), False, {})
    if file is not None:
        content = cluster_file.read(file)
        types = [each.node for each in content.types if each.most or each.node.is_head]
        need = places.need(scale, places.gpus_per_worker(scale, types))
        nodes, name, prices = content.nodes(need), str(file), content.prices
    else:
        facts = provenance.machine()
        nodes = [Node(facts["cores"], len(facts["gpus"]), 0.7 * facts["memory_bytes"], True, "machine")]
        need = places.need(scale, places.gpus_per_worker(scale, nodes))
        name, prices = "this machine", {}
    if not (fitting := places.fits(need, nodes)):
        raise ConfigError(f"{name}: scale: {places.refusal(need, nodes)}")
    return Site(name, nodes, need, min(fitting, limit or fitting), file is None, prices)


def of(
    experiment: Experiment, trials: list[Trial], where: Site, given: Sequence[Path], *, machine: str | None,
    probing: bool, prices: Mapping[str, float], file: str,
) -> dict[str, Any]:  # fmt: skip
    """Everything that `harness plan` says, for JSON."""
    due = _due(experiment, trials)
    found, overheads = _measurements(experiment, given)
    probed: list[Measured] = []
    if probing and due:
        records, overhead = probe.run(experiment, due)
        probe.keep(records, overhead, _machine_here(where), experiment.folder)
        probed = timing.measured(records, "probes")
        overheads[_machine_here(where)] = overhead
    chosen, missing = _machine(where, found, machine)
    there = [each for each in found if each.work.machine == chosen]
    cold = timing.cold_seconds(probed or there)
    overhead = replace(overheads.get(chosen, Overhead()), cold=cold)
    sizes = _sizes(experiment)

    def guess(trial: Trial) -> Expected | str:
        content = trial.model_dump(mode="json")
        # What was tried just now, under the same conditions, is worth more than what was measured some day.
        first = timing.expected(content, sizes, chosen, probed)
        best = first if isinstance(first, Expected) else timing.expected(content, sizes, chosen, there)
        return best if isinstance(best, Expected) or not missing else missing

    result = forecast.of(experiment, due, guess, where.places, overhead)
    return _said(experiment, trials, due, where, result, chosen, {**where.prices, **prices}, file)


def table(found: Mapping[str, Any]) -> Any:
    """The rows of a forecast as a terminal table."""
    return listing.shown(found["rows"], title="")


def lines(found: Mapping[str, Any]) -> list[str]:
    """The rest of a forecast, a line each."""
    counts, hours = found["trials"], found["hours"]
    said = [
        f"{counts['all']} trials, {counts['measured']} of them measured, {counts['due']} due; "
        f"{counts['forecast']} can be forecast",
        f"on {found['site']}: {found['places']} at once ({found['nodes']})",
    ]
    if counts["forecast"]:
        said += [f"wall-clock: {_span(found['wall_seconds'], _duration)}"]
        said += [f"{kind}-hours: {_span(hours[kind], '{:.3g}'.format)}" for kind in hours]
        said += [f"cost: {_span(found['cost'], '{:,.2f} USD'.format)}" if isinstance(found["cost"], dict)
                 else f"cost: {found['cost']}"] if found["cost"] else []  # fmt: skip
        said += [f"measured on: {found['machine']}"]
    said += [f"note: {note}" for note in found["notes"]]
    said += [f"not forecast: {text}" for text in found["unknown"]]
    return said


def _due(experiment: Experiment, trials: list[Trial]) -> list[Trial]:
    """The trials that a sweep would run; of a study, its base as often as points are missing."""
    if experiment.sweep.search != "optuna":
        return backlog.due(trials, experiment.folder)
    points, tried = experiment.sweep.trials or 1, search.all_tried(experiment, trials)
    return [trial for trial in trials for _ in range(points - len(tried[trial.id]))]


def _measurements(experiment: Experiment, given: Sequence[Path]) -> tuple[list[Measured], dict[str, Overhead]]:
    """What records and earlier probes say, and what a sweep takes beside its trials, by machine."""
    root = storage.at(experiment.results)
    folders = [*([root] if storage.exists(root) else []), *given]
    found = timing.measured(record.read_all(folders))
    overheads = _benchmarked(experiment.scale.workers)
    for folder in [experiment.folder, *(path for path in given if not storage.is_file(path))]:
        for records, overhead, machine in probe.kept(folder):
            found += timing.measured(records, "probes")
            overheads[machine] = overhead
    return found, overheads


def _benchmarked(workers: int) -> dict[str, Overhead]:
    """What `benchmarks/overhead.py` measured, by machine."""
    files = [Path(folder) / "results" / "benchmarks" / "overhead.json" for folder in harness.__path__]
    found = {}
    for file in files:
        if not file.exists():
            continue
        content = json.loads(file.read_text())
        values = {each["name"]: each["value"] for each in content["measures"]}
        several = "1" if workers == 1 else "2"
        command = values.get(f"whole command, one trial, {several} worker(s)")
        # With one worker a further trial starts in a process that is there, and most of this is its own training.
        trial = values.get("each further trial, 2 worker(s)") if workers > 1 else None
        for on_gpu in (False, True):
            name = timing.machine(content["machine"], on_gpu)
            found[name] = Overhead(command, trial, source="benchmarks/overhead.py")
    return found


def _machine_here(where: Site) -> str:
    return timing.machine(provenance.machine(), where.need.gpus > 0)


def _machine(where: Site, found: Sequence[Measured], named: str | None) -> tuple[str, str]:
    """Whose measurements count, and what to do where there are none.

    Raises ConfigError when that is not decided.
    """
    kind = "GPU" if where.need.gpus else "CPU"
    if where.is_here and named is None:
        return _machine_here(where), ""
    kinds = sorted({each.work.machine for each in found if each.work.machine.startswith(kind)})
    fitting = [each for each in kinds if named is None or named.casefold() in each.casefold()]
    if len(fitting) == 1:
        return fitting[0], ""
    if fitting:
        raise ConfigError(f"--machine: measured on several, name one: {', '.join(fitting)}")
    wanted = f"a {kind}" if named is None else f"a {kind} called '{named}'"
    return "none", f"no measurement on {wanted} is there; measure on such a node"


def _sizes(experiment: Experiment) -> dict[str, int]:
    block = experiment.dataset
    sizes = source.of(block).info.sizes
    held_out = round(block.validation * sizes["train"])
    return {"train": sizes["train"] - held_out, "validation": held_out, "test": sizes["test"]}


def _said(
    experiment: Experiment, trials: Sequence[Trial], due: Sequence[Trial], where: Site, result: Forecast, machine: str,
    prices: Mapping[str, float], file: str,
) -> dict[str, Any]:  # fmt: skip
    need, hours = where.need, result.worker_seconds.times(1 / 3600)
    nodes = _nodes_used(where, result.used)
    points = experiment.sweep.trials or 1 if experiment.sweep.search == "optuna" else 1
    everything = len(trials) * points
    waiting = len(due) if points > 1 else _own(trials, due)
    cost = forecast.cost(result.wall.times(1 / 3600), nodes, prices) if prices else None
    return {
        "trials": {
            "all": everything, "measured": everything - waiting, "due": len(due),
            "forecast": sum(trial.id in result.expected for trial in due),
        },
        "site": where.name, "places": where.places, "nodes": places.summary(where.nodes), "machine": machine,
        "wall_seconds": forecast.as_dict(result.wall),
        "hours": {"CPU": forecast.as_dict(hours.times(need.cpus)), "GPU": forecast.as_dict(hours.times(need.gpus))},
        "cost": forecast.as_dict(cost) if isinstance(cost, Span) else cost, "nodes_used": dict(nodes),
        "rows": _rows(due, result), "notes": list(result.notes), "unknown": _unknown(due, result, file),
    }  # fmt: skip


def _own(trials: Sequence[Trial], due: Sequence[Trial]) -> int:
    waiting = {trial.id for trial in due}
    return sum(trial.id in waiting for trial in trials)


def _rows(due: Sequence[Trial], result: Forecast) -> list[dict[str, Any]]:
    """One row for each method, network and T that can be forecast."""
    groups: dict[tuple, list[Trial]] = {}
    for trial in due:
        if trial.id in result.expected:
            groups.setdefault((trial.label, trial.network.name, trial.time_steps), []).append(trial)
    rows = []
    for (label, network, time_steps), group in groups.items():
        totals = [result.expected[trial.id] for trial in group]
        rows.append(
            {
                "method": label, "network": network, "T": time_steps, "trials": len(group),
                "epochs": max(trial.train.epochs for trial in group),
                "s per epoch": _short_span([each.epoch for each in totals]),
                "s per trial": _short_span([each.total for each in totals]),
                "from": " / ".join(sorted({each.source for each in totals})),
            }
        )  # fmt: skip
    return rows


def _short_span(spans: Sequence[Span]) -> str:
    low, high = min(span.low for span in spans), max(span.high for span in spans)
    return f"{statistics.mean(span.mid for span in spans):.3g} ({low:.3g} to {high:.3g})"


def _unknown(due: Sequence[Trial], result: Forecast, file: str) -> list[str]:
    """For each method what cannot be forecast, why, and what to run."""
    groups: dict[tuple[str, str], int] = {}
    for trial in due:
        if trial.id in result.unknown:
            key = (trial.label, result.unknown[trial.id])
            groups[key] = groups.get(key, 0) + 1
    return [
        f"{number} trials of '{label}': {reason}; run: harness plan {file} --probe"
        for (label, reason), number in groups.items()
    ]


def _nodes_used(where: Site, used: int) -> Counter[str]:
    """How many nodes of each type that many places take, the head with them."""
    limit = max(used, 1)
    for count in range(1, len(where.nodes) + 1):
        if places.fits(where.need, where.nodes[:count]) >= limit:
            break
    return Counter(node.kind or ("head" if node.is_head else "node") for node in where.nodes[:count])


def _span(span: Mapping[str, float], shown: Callable[[float], str]) -> str:
    return f"{shown(span['expected'])} ({shown(span['low'])} to {shown(span['high'])})"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
