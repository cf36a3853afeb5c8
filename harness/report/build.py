"""Write the page: index.html, its script and style, and the data in many small scripts."""

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path

import jinja2

import harness
from harness import cells
from harness import published as papers
from harness.report import content, gather, overview, script
from harness.report.gather import Found
from harness.report.place import Place
from harness.sheet import Sheet, sheets

SCRIPTS = ("state", "words", "filters", "table", "figure", "chart", "panels", "curves", "details", "start")
"""The parts of app.js, in their order."""


def write(paths: Iterable[Path], folder: Path, *, title: str = "Accuracy against latency") -> tuple[int, int]:
    """Write the page of all records under the paths and return how many records and cells it shows.

    The same records give the same bytes. Raises ValueError where a record cannot be read, there is none, or the folder
    holds something else.
    """
    place = Place(folder)
    given = list(paths)
    found = _unique(list(gather.found(given)))
    if not found:
        raise ValueError(f"no records under {', '.join(map(str, given))}")
    made = sheets([entry.record for entry in found.values()], papers.shipped())
    files = dict(static())
    chunks = {f"data/records/{script.chunk(name)}.js" for name in found}
    chunks |= {f"data/cells/{script.chunk(content.key(cell))}.js" for sheet in made for cell in sheet.cells}
    place.open({*files, *chunks, "data/index.js", "index.html"})
    for name, text in files.items():
        place.write(name, text)
    for name, text in _chunks("records", ((name, found[name].text) for name in sorted(found))):
        place.write(name, text)
    for name, text in _chunks("cells", _details(made, found)):
        place.write(name, text)
    place.write("data/index.js", f'harnessReport("index",{script.dump(content.table(made))});\n')
    # Last, so that a page never speaks of data that is not there.
    place.write("index.html", _page(overview.of(made, [entry.record for entry in found.values()], title)))
    place.close()
    return len(found), sum(len(sheet.cells) for sheet in made)


def _unique(found: Sequence[Found]) -> dict[str, Found]:
    """Every trial once, as cells choose it."""
    by_record = {id(entry.record): entry for entry in found}
    return {record.id: by_record[id(record)] for record in cells.unique(entry.record for entry in found)}


def _details(made: Sequence[Sheet], found: dict[str, Found]) -> Iterator[tuple[str, str]]:
    for sheet in made:
        for cell in sheet.cells:
            of_cell = [found[name] for name in cell.ids]
            histories = [json.loads(entry.text)["history"] for entry in of_cell]
            yield content.key(cell), content.details(sheet, cell, [entry.record for entry in of_cell], histories)


def _chunks(kind: str, texts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Files of texts by the first digits of their names."""
    chunks: dict[str, dict[str, str]] = {}
    for name, text in texts:
        chunks.setdefault(script.chunk(name), {})[name] = text
    for digits in sorted(chunks):
        yield f"data/{kind}/{digits}.js", script.call(kind, chunks[digits])


def static() -> Iterator[tuple[str, str]]:
    """Script and style of every page, by file name."""
    here = resources.files("harness.report")
    parts = [(here / "static" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    yield "app.js", "(function () {\n'use strict';\n" + "\n".join(parts) + "})();\n"
    yield "style.css", (here / "static" / "style.css").read_text(encoding="utf-8")


def _page(shown: overview.Overview) -> str:
    template = (resources.files("harness.report") / "templates" / "index.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(overview=shown, version=harness.__version__) + "\n"
