"""Commands over records: tables, and MLflow's copy of them."""

import sys
from typing import Annotated

import typer

from harness import storage, tables_cli
from harness.command import refused
from harness.tables_cli import Paths

app = typer.Typer()
app.add_typer(tables_cli.app)


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
