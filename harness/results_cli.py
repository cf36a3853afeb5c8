"""Commands over records: tables, and MLflow's copy of them."""

import json
import sys
from enum import StrEnum
from typing import Annotated

import typer

from harness import storage
from harness.command import Json, refused, say, show
from harness.experiment_file import ConfigError
from harness.record import Record

app = typer.Typer()

Paths = Annotated[list[str], typer.Argument(metavar="PATH...", help="Records or folders that hold them.")]


class Format(StrEnum):
    """How a table is written."""

    terminal = "terminal"
    md = "md"
    csv = "csv"
    latex = "latex"
    html = "html"
    json = "json"


@app.command(epilog="Example: harness table results/digits --format latex > table.tex")
def table(
    paths: Paths,
    format: Annotated[Format, typer.Option("--format", "-f", help="How to write it.")] = Format.terminal,
    anytime: Annotated[
        bool, typer.Option("--anytime", help="Also accuracy after every step of one simulation.")
    ] = False,
) -> None:
    """Accuracy against latency from records, beside published figures."""
    from harness import publish

    records = _records(paths)
    if format is Format.terminal:
        show(publish.table(records, anytime=anytime))
    else:
        print(publish.rendered(records, format.value, anytime=anytime), end="")


@app.command(epilog="Example: harness track results/digits --uri http://127.0.0.1:5000")
def track(
    paths: Paths,
    uri: Annotated[str | None, typer.Option(help="MLflow tracking URI; by default as in a sweep.")] = None,
) -> None:
    """Send records to MLflow again, for instance after its server was down. Sending twice changes nothing."""
    from harness import publish, record
    from harness.tracking import TrackingError

    with refused():
        given = [storage.given(path) for path in paths]
        records = list(record.read_all(given))
    try:
        print(publish.track(records, given, uri))
    except TrackingError as error:
        print(f"harness: MLflow: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


@app.command(
    epilog="Example: harness runs \"params.method = 'dsr' and metrics.test_accuracy > 90\" --best cost/latency_ms"
)
def runs(
    query: Annotated[str | None, typer.Argument(help="Filter in MLflow's syntax; by default every trial.")] = None,
    uri: Annotated[str | None, typer.Option(help="MLflow tracking URI; by default as in a sweep.")] = None,
    experiment: Annotated[str | None, typer.Option(help="Only of this experiment.")] = None,
    best: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC", help="Sort by it, the best first: the highest accuracy or rate, the lowest of all others."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    json_: Json = False,
) -> None:
    """Find trials in MLflow, the latest first."""
    from harness import listing
    from harness.tracking import TrackingError
    from harness.tracking.runs import find, readable

    try:
        with refused():
            rows = find(query, uri, experiment=experiment, best=best, limit=limit)
    except TrackingError as error:
        print(f"harness: MLflow: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    if json_:
        print(json.dumps(rows, indent=1))
    elif not rows:
        say(False, "no trial fits")
    else:
        show(listing.shown(readable(rows), title=f"{len(rows)} trials"))


def _records(paths: list[str]) -> list[Record]:
    """Every record under the paths; one line and exit code 2 where there is none."""
    from harness import record

    with refused():
        found = list(record.read_all(map(storage.given, paths)))
    if not found:
        raise ConfigError(f"no records under {', '.join(paths)}")
    return found
