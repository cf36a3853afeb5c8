"""Finds methods, datasets and networks by name: a file in a folder, or an entry point of an installed package."""

import difflib
import importlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Literal

import harness

Kind = Literal["methods", "datasets", "networks"]


def names(kind: Kind) -> list[str]:
    """Every name of a kind, sorted. Methods and datasets are listed without importing them."""
    if kind == "networks":
        return sorted(_architectures())
    return sorted({*_files(kind), *_outside(kind)})


def load(kind: Kind, name: str) -> ModuleType:
    """The module that offers `name`.

    Raises ValueError with the nearest names when there is none.
    """
    if name not in names(kind):
        raise ValueError(unknown(kind.removesuffix("s"), name, names(kind)))
    if kind == "networks":
        return _architectures()[name]
    if name in _files(kind):
        return importlib.import_module(f"harness.{kind}.{name}")
    return _outside(kind)[name].load()


def unknown(what: str, given: str, allowed: Iterable[str]) -> str:
    """The sentence for a name that does not exist: what was given, the nearest spelling, what there is."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(given, allowed, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"no {what} '{given}'{hint} (there are: {', '.join(allowed)})"


def _files(kind: str) -> list[str]:
    folders = [Path(folder) / kind for folder in harness.__path__]
    return [file.stem for folder in folders for file in folder.glob("*.py") if not file.stem.startswith("_")]


@cache  # reading what is installed is slow, and a plan asks for every trial
def _outside(kind: str) -> dict:
    return {point.name: point for point in entry_points(group=f"harness.{kind}")}


def _architectures() -> dict[str, ModuleType]:
    from harness.models import catalog

    return catalog.architectures()
