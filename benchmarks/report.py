"""What a benchmark found, as a table and as a file: name, value, unit, target and whether it was met."""

import json
from pathlib import Path
from typing import Any

from harness import provenance

FOLDER = Path(__file__).parent.parent / "results" / "benchmarks"

Measure = dict[str, Any]
"""With the keys of the file: name, value, unit, target, met."""


def measure(
    name: str, value: float, unit: str, *, at_most: float | None = None, at_least: float | None = None
) -> Measure:
    """One figure, and its target if it has one: a bound from above or from below."""
    assert at_most is None or at_least is None, "one target a figure"
    target, met = None, None
    if at_most is not None:
        target, met = f"<= {at_most}", value <= at_most
    if at_least is not None:
        target, met = f">= {at_least}", value >= at_least
    return {"name": name, "value": value, "unit": unit, "target": target, "met": met}


def write(name: str, measures: list[Measure], command: str, *, folder: Path = FOLDER) -> Path:
    """Print the measures and write them to `<folder>/<name>.json`, with where they come from."""
    width = max(len(found["name"]) for found in measures)
    for found in measures:
        verdict = {None: "", True: f"target {found['target']}: met", False: f"target {found['target']}: MISSED"}
        print(f"{found['name']:{width}}  {found['value']:12.4g} {found['unit']:10} {verdict[found['met']]}".rstrip())
    commit, dirty = provenance.commit()
    content = {
        "measures": measures,
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "commit": f"{commit}, with changes" if dirty else commit,
        "command": command,
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    unfinished = file.with_suffix(".tmp")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    unfinished.replace(file)
    return file
