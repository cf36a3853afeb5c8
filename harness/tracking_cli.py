"""Commands over MLflow's copy of records."""

import json
import sys
from typing import Annotated

import typer

from harness import storage
from harness.command import Json, Paths, refused, say, show

app = typer.Typer()


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
