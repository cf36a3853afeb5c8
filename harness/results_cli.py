"""Commands over records: figures and the report page; tables are in a file of their own."""

from enum import StrEnum
from typing import Annotated

import typer

from harness import storage
from harness.command import Paths, refused
from harness.experiment_file import ConfigError
from harness.record import Record

app = typer.Typer()


class Figure(StrEnum):
    """What is drawn."""

    accuracy = "accuracy"
    training = "training"
    firing = "firing"
    early_exit = "early-exit"
    convergence = "convergence"
    all = "all"


class Drawing(StrEnum):
    """How a figure is written."""

    svg = "svg"
    pdf = "pdf"
    png = "png"


@app.command(epilog="Example: harness plot results/digits -o figures --kind accuracy --format pdf")
def plot(
    paths: Paths,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="Where figures go.")] = "plots",
    kind: Annotated[Figure, typer.Option("--kind", "-k", help="What to draw.")] = Figure.all,
    format: Annotated[Drawing, typer.Option("--format", "-f", help="How to write it.")] = Drawing.svg,
) -> None:
    """Figures from records, as far as anything was measured for them."""
    from harness import plots, published

    with refused():
        folder = storage.given(output)
    if storage.is_file(folder):
        raise ConfigError(f"--output {output}: a file; figures go into a folder")
    kinds = list(plots.KINDS) if kind is Figure.all else [kind.value]
    records = _records(paths)
    with refused():
        wanted = {name: [format.value] for name in kinds}
        files = plots.write(records, folder, wanted, published=published.shipped())
    for file in files:
        print(file)
    if not files:
        raise ConfigError(f"nothing to draw: no finished trial under {', '.join(paths)} has figures for {kind.value}")


@app.command(epilog="Example: harness report results/ -o site/")
def report(
    paths: Paths,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write the page.")],
    title: Annotated[str, typer.Option(help="The page's title.")] = "Accuracy against latency",
) -> None:
    """A web page of records, beside published figures: tables, plots and every record; opens without a server."""
    from harness.report import build

    with refused():
        folder = storage.given(output)
        records, cells = build.write([storage.given(path) for path in paths], folder, title=title)
    print(f"{folder / 'index.html'}: {records} records in {cells} configurations")


def _records(paths: list[str]) -> list[Record]:
    """Every record under the paths; one line and exit code 2 where there is none."""
    from harness import record

    with refused():
        found = list(record.read_all(map(storage.given, paths)))
    if not found:
        raise ConfigError(f"no records under {', '.join(paths)}")
    return found
