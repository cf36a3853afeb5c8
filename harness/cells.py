"""Records -> cells, in an order that does not depend on the records' order. Pure."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.cell import Cell, Measured, canonical, flatten, grouped, order, seed
from harness.means import statistic

__all__ = ["of", "statistic", "unique"]


@dataclass(frozen=True)
class _Shared:
    """What all records of a cell have in common: rule and trial, but for the seed."""

    selection: str
    trial: Mapping[str, Any]

    @cached_property
    def configuration(self) -> dict[str, Any]:
        return _configuration(self.trial)

    @cached_property
    def key(self) -> str:
        return canonical([self.selection, self.configuration])

    @cached_property
    def data(self) -> str:
        return canonical({key: value for key, value in self.configuration.items() if key.startswith("dataset")})


def of(records: Iterable[Measured]) -> list[Cell]:
    """One cell for each configuration, sorted."""
    once = unique(records)
    known: dict[str, _Shared] = {}
    shared = {record.id: _shared(record, known) for record in once}
    titles = {shared[record.id].data: str(record.data["title"]) for record in once if record.data.get("title")}
    groups = grouped(once, lambda record: shared[record.id].key)
    return sorted((_cell(group, shared[group[0].id], titles) for group in groups.values()), key=order)


def unique(records: Iterable[Measured]) -> list[Any]:
    """Every trial once, sorted by seed and id; of several records of one id a finished one, then the latest."""
    chosen: dict[str, Measured] = {}
    for record in records:
        known = chosen.get(record.id)
        if known is None or _is_better(record, known):
            chosen[record.id] = record
    return sorted(chosen.values(), key=lambda record: (seed(record), record.id))


def _cell(records: list[Measured], shared: _Shared, titles: Mapping[str, str]) -> Cell:
    """The cell of records that differ in nothing but the seed; `titles` maps a dataset's options to its title."""
    return Cell(
        records=tuple(records),
        # A trial that failed before it had read its data knows no title; the others do.
        dataset=titles.get(shared.data) or str(shared.configuration.get("dataset.name", "")),
        network=_network(shared.trial.get("network", "")),
        configuration=shared.configuration,
    )


def _shared(record: Measured, known: dict[str, _Shared]) -> _Shared:
    """From `known`, by a text that is quick to make, or new: to put a configuration in order takes a while."""
    trial = {key: value for key, value in record.trial.items() if key != "seed"}
    text = json.dumps([record.selection, trial], default=str)
    return known.setdefault(text, _Shared(record.selection, trial))


def _configuration(trial: Mapping[str, Any]) -> dict[str, Any]:
    """The flat trial without what may differ inside a cell: the seed, how batches are fed; under `start` its start."""
    flat = flatten({key: value for key, value in trial.items() if key != "start"})
    flat["label"] = str(flat.get("label") or flat.get("method", ""))
    if start := trial.get("start"):
        flat["start"] = _start(start)
    return {key: flat[key] for key in sorted(flat) if key not in ("seed", "dataset.loader")}


def _start(trial: Mapping[str, Any]) -> str:
    """The trial that another starts from, in short; two that differ in more than the seed differ here."""
    shared = _configuration(trial)
    label = shared.pop("label")
    digest = hashlib.sha256(canonical(shared).encode()).hexdigest()[:6]
    return f"{label} T={shared.get('time_steps', 1)} ({digest})"


def _network(block: Any) -> str:
    if not isinstance(block, Mapping):
        return str(block)
    flat = flatten(block)
    flat = {key.removeprefix("options."): flat[key] for key in sorted(flat)}
    name = str(flat.pop("name", ""))
    return f"{name} ({', '.join(f'{key}={value}' for key, value in flat.items())})" if flat else name


def _is_better(record: Measured, known: Measured) -> bool:
    """Whether a record of a trial is preferred to another one; of equals the one whose text comes later, whatever."""
    ranks = [(each.outcome == "done", each.started or "") for each in (record, known)]
    return ranks[0] > ranks[1] or (ranks[0] == ranks[1] and record.model_dump_json() > known.model_dump_json())
