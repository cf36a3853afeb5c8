"""The command `plan`: what a sweep will take before it starts. As in `cli.py`: parse, call, print; nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from harness import storage
from harness.command import File, Json, Quiet, Set, refused, say, show
from harness.experiment_file import ConfigError

Load = Callable[[Path, list[str] | None, bool], tuple[Any, list]]
"""Reads an experiment file: the file, its overrides, whether its data have to be prepared."""


def register(app: typer.Typer, load: Load) -> None:
    """Add the command to the command line."""

    @app.command(epilog="Example: harness plan configs/imagenet.yaml --cluster clusters/aws.yaml --price h100=98.32")
    def plan(
        file: File,
        cluster: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Cluster file (`ray up`) to plan for; by default, here.")
        ] = None,
        probe: Annotated[bool, typer.Option("--probe", help="Train a few steps of every method, now.")] = False,
        records: Annotated[
            list[str] | None, typer.Option(metavar="PATH", help="Further records to measure by, beside results/.")
        ] = None,
        machine: Annotated[
            str | None, typer.Option(metavar="NAME", help="Whose measurements: part of a CPU's or GPU's name.")
        ] = None,
        price: Annotated[
            list[str] | None, typer.Option(metavar="TYPE=USD", help="What a node of this type costs in an hour.")
        ] = None,
        set_: Set = None, quiet: Quiet = False, json_: Json = False,
    ) -> None:  # fmt: skip
        """What a sweep will take: trials, hours, wall-clock and cost, from what was measured; it starts nothing."""
        from harness import outlook

        prices = dict(map(_price, price or []))
        experiment, trials = load(file, set_, probe)
        with refused():
            where = outlook.site(experiment, cluster)
            given = [storage.given(path) for path in records or []]
            if probe:
                say(quiet, "a few steps of every method are trained now, which takes about a minute …")
            found = outlook.of(
                experiment, trials, where, given, machine=machine, probing=probe, prices=prices, file=str(file)
            )
        if json_:
            print(json.dumps(found, indent=1))
            return
        if found["rows"]:
            show(outlook.table(found))
        print("\n".join(outlook.lines(found)))


def _price(text: str) -> tuple[str, float]:
    kind, _, amount = text.partition("=")
    try:
        value = float(amount)
    except ValueError:
        value = -1.0
    if not kind or value < 0:
        raise ConfigError(f"--price {text}: expected TYPE=USD, such as h100=98.32 for one node and hour")
    return kind, value
