"""Commands that carry results elsewhere: run one again from its record, bundle them, merge other machines'."""

import json
from pathlib import Path
from typing import Annotated

import typer

from harness import storage
from harness.command import Json, Paths, Quiet, refused, say, short, show
from harness.experiment_file import ConfigError

app = typer.Typer()

Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE.zip", help="The bundle to write.")]


@app.command(epilog="Example: harness reproduce results/digits/0123456789ab.json")
def reproduce(
    run: Annotated[str, typer.Argument(metavar="RECORD", help="A record, or its id under results/.")],
    into: Annotated[Path, typer.Option(help="Folder of the new record; not that of the old one.")] = Path("reproduced"),
    tolerance: Annotated[
        float, typer.Option(min=0, help="Percentage points of test accuracy that may differ; more is a failure.")
    ] = 0.5,
    quiet: Quiet = False, json_: Json = False,
) -> None:  # fmt: skip
    """Train RECORD's trial again from what the record says, here, and report what differs.

    Exit code 1 where the outcome is another one or the accuracy differs by more than the tolerance.
    """
    from harness import data_cli, record, sweep
    from harness import reproduce as again
    from harness.data import source
    from harness.progress import epoch_line

    with refused():
        file = record.find(run)
        recorded = record.read(file)
        trial = again.trial_of(recorded)
        again.refuse_unknown(trial)
        experiment = again.experiment_of(recorded, trial, into)
        if record.path(experiment.folder, trial.id).absolute() == file.absolute():
            raise ConfigError(f"--into {into}: holds {file}, which is to be reproduced; give another folder")
    with refused(f"{run}: dataset: "):
        data_cli.prepared(source.of(trial.dataset), quiet=quiet)
    if trial.id != recorded.id:
        say(quiet, f"this version of the harness calls the trial {trial.id}: a default has changed since")
    if record.of([trial.id], experiment.folder):
        say(quiet, f"reproduced before, in {short(experiment.folder)}; compared without training again")
    here = sweep.run_one(experiment, trial, lambda metrics: say(quiet, epoch_line(metrics)))
    comparison = again.compared(recorded, here)
    if json_:
        print(json.dumps(comparison.as_dict(), indent=1))
    else:
        show(again.shown(comparison))
    if not comparison.is_within(tolerance):
        raise typer.Exit(1)


@app.command(epilog="Example: harness export results/digits -o digits.zip")
def export(
    paths: Paths,
    output: Output,
    quiet: Quiet = False,
) -> None:
    """Bundle records with their tables, plots, environments and checksums, for a paper's appendix."""
    from harness import bundle, record

    if output.suffix != ".zip":
        raise ConfigError(f"--output {output}: a bundle is a ZIP file; give a name that ends in .zip")
    with refused():
        files = record.paths(map(storage.given, paths))
        if not files:
            raise ConfigError(f"no records under {', '.join(paths)}")
        count = bundle.write(output.absolute(), files)
    say(quiet, f"{count} records in {short(output.absolute())}")


@app.command("import", epilog="Example: harness import digits.zip colleague/results --into results")
def import_(
    places: Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Bundles, records or folders of them.")],
    into: Annotated[str, typer.Option(help="Folder of results to merge into.")] = "results",
    skip_duplicates: Annotated[
        bool, typer.Option("--skip-duplicates", help="Leave out trials that have another record here.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Merge records from other machines: all of them, or none when a trial has another record here."""
    from harness import bundle

    with refused():
        merge = bundle.merge(map(storage.given, places), storage.at(into))
    if merge.other and not skip_duplicates:
        raise ConfigError(
            f"{len(merge.other)} trials have another record in {into}, nothing was imported: "
            f"{_some(merge.other)}; `--skip-duplicates` leaves them out"
        )
    with refused():
        folders = bundle.apply(merge)
    left = f", {len(merge.other)} left out" if merge.other else ""
    print(f"{len(merge.new)} records imported, {len(merge.known)} were there already{left}")
    for folder in folders:
        say(quiet, f"tables and plots made again in {short(folder)}")
    if merge.dirty:
        print(f"with uncommitted changes, marked + in tables: {_some(merge.dirty)}")
    if merge.unknown:
        print(f"of no known commit: {_some(merge.unknown)}")


def _some(ids: tuple[str, ...]) -> str:
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
