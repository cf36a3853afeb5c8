"""The commands about data: prepare, verify, info, show, stage. As in `cli.py`: parse, call, print; nothing else."""

import json
import os
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness import experiment_file, interrupt
from harness.command import Json, Quiet, refused, say, show, warnings
from harness.config import DatasetBlock
from harness.experiment_file import ConfigError

if TYPE_CHECKING:  # what they import takes seconds
    from harness.data.prepared import Prepared
    from harness.data.source import Source

app = typer.Typer(no_args_is_help=True, help="Prepare datasets, check them, look at them, copy them to where they run.")

Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="Dataset, as `harness list datasets` prints it.", show_default=False),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Take the dataset of this experiment file, as it is there."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="An option of the dataset, or how whole images are kept (store.*)."
    ),
]


class Split(StrEnum):
    """Which samples."""

    train = "train"
    test = "test"


@app.command(
    epilog="Examples: harness data prepare mnist · harness data prepare image_folder --set path=photos --set size=64"
)
def prepare(
    name: Name = None, set_: Set = None, config: Config = None, quiet: Quiet = False, json_: Json = False
) -> None:
    """Download a dataset (or find it under HARNESS_DATA) and write it into the files that training reads, once.

    An interrupted preparation goes on where it was with the same command.
    """
    with refused(), interrupt.raised():
        done = prepared(_source(_block(name, config, set_)), quiet=quiet, beton=True)
    manifest = done.manifest
    samples = ", ".join(f"{number} {split}" for split, number in manifest.sizes.items())
    say(quiet, f"{manifest.title}: {samples} samples, {_size(manifest.size_bytes)} in {len(manifest.files)} files")
    facts = {"folder": str(done.folder), **manifest.model_dump(mode="json")}
    print(json.dumps(facts, indent=1) if json_ else done.folder)


@app.command(epilog="Example: harness data verify mnist")
def verify(
    name: Name = None, set_: Set = None, config: Config = None, quiet: Quiet = False, json_: Json = False
) -> None:
    """Compare every prepared file with its checksum; exit code 1 when one is missing, cut short or changed."""
    from harness.data import prepared
    from harness.progress import Counts

    source = _source(_block(name, config, set_))
    with refused(), interrupt.raised(), Counts(quiet=quiet) as counts:
        found = prepared.check(source, lambda folder: partial(counts.transfer, f"reading {folder}"))
    again = _command("prepare", name, config, set_)
    if not found:
        raise ConfigError(f"{source.name} is not prepared: {again}")
    problems = [problem for each in found.values() for problem in each]
    if json_:
        print(json.dumps({str(folder): each for folder, each in found.items()}, indent=1))
    else:
        print("\n".join(problems or [f"{folder}: every file is as it was written" for folder in found]))
    if problems:
        say(quiet, f"to write it anew, delete the folder, then: {again}")
        raise typer.Exit(1)


@app.command(epilog="Example: harness data info cifar10 --json")
def info(name: Name = None, set_: Set = None, config: Config = None, json_: Json = False) -> None:
    """What a dataset is, where its files are or that they are missing, its licence, and what to cite."""
    from harness.data import facts as data_info

    source = _source(_block(name, config, set_))
    with refused():
        facts = data_info.facts(source)
    if json_:
        print(json.dumps(facts, indent=1))
    else:
        show(data_info.shown(facts))


@app.command(
    "show", epilog="Examples: harness data show cifar10 · harness data show nmnist --time-steps 10 --output nmnist.png"
)
def show_(
    name: Name = None,
    output: Annotated[Path | None, typer.Option(help="PNG to write; by default NAME.png, here.")] = None,
    split: Annotated[Split, typer.Option(help="Which samples.")] = Split.train,
    count: Annotated[int | None, typer.Option(min=1, help="How many samples; by default 40, or 8 of events.")] = None,
    time_steps: Annotated[int | None, typer.Option(min=1, help="Frames of events, T; by default 8.")] = None,
    set_: Set = None, config: Config = None, quiet: Quiet = False, json_: Json = False,
) -> None:  # fmt: skip
    """Write a contact sheet: images with their classes, or the frames of recordings (red: on, blue: off)."""
    from harness.data import contact

    block = _block(name, config, set_, also=("frames",))
    source, file = _source(block), output or Path(f"{block.name}.png")
    if file.suffix.lower() != ".png":
        raise ConfigError(f"--output {file}: only .png is written")
    if time_steps and not source.info.temporal:
        raise ConfigError(f"--time-steps: no effect on {source.info.title}, whose images do not change over time")
    with refused(), interrupt.raised():
        prepared(source, quiet=quiet)
        sheet = contact.sheet(block, split.value, count, time_steps)
        file.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(file)
    print(json.dumps({"file": str(file), "width": sheet.width, "height": sheet.height}) if json_ else file)


@app.command(epilog="Example: HARNESS_STAGE=/local/nvme harness data stage imagenet")
def stage(
    name: Name = None,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder on each node's own disk; by default HARNESS_STAGE.")
    ] = None,
    set_: Set = None, config: Config = None, quiet: Quiet = False, json_: Json = False,
) -> None:  # fmt: skip
    """Copy prepared data to the local disk of every node of the cluster that RAY_ADDRESS names, or of this machine.

    Where HARNESS_STAGE is then set to DIR, training reads the copy. What is there already is not copied again.
    """
    from harness.data import stage
    from harness.progress import Counts

    given = os.environ.get("HARNESS_STAGE")
    if not (to or given):
        raise ConfigError("--to: which folder? (it may be given as HARNESS_STAGE, too)")
    root = Path(to or given or "").expanduser().absolute()
    with refused(), interrupt.raised():
        done = prepared(_source(_block(name, config, set_)), quiet=quiet, beton=True, staged=False)
        with Counts(quiet=quiet) as counts:
            results = list(stage.everywhere(done.folder, root, counts))
    if json_:
        print(json.dumps([result.as_dict() for result in results], indent=1))
    else:
        print("\n".join(map(str, results)))
    if any(result.problem for result in results):
        raise typer.Exit(1)
    if given is None or Path(given).expanduser().absolute() != root:
        say(quiet, f"training reads these copies where HARNESS_STAGE={root} is set")


def prepared(source: "Source", *, quiet: bool, beton: bool | None = None, staged: bool = True) -> "Prepared":
    """The prepared data of a dataset, with progress on stderr while they are made."""
    from harness.data.prepare import prepare_source
    from harness.progress import Counts

    with warnings(quiet), Counts(quiet=quiet) as counts:
        progress = counts.items(f"preparing {source.name}")
        return prepare_source(source, beton=beton, staged=staged, progress=progress, transfer=counts.transfer)


def _block(
    name: str | None, config: Path | None, overrides: list[str] | None, also: tuple[str, ...] = ()
) -> DatasetBlock:
    """The dataset that a command line names; `also`: further blocks that have an effect on the command."""
    if config:
        content = experiment_file.load(config).dataset.model_dump()
        if name not in (None, content["name"]):
            raise ConfigError(f"{config}: its dataset is '{content['name']}', not '{name}'")
    elif name:
        content = {"name": name}
    else:
        raise ConfigError("give the name of a dataset (`harness list datasets`), or --config FILE")
    for override in overrides or []:
        key = override.partition("=")[0].partition(".")[0]
        if key in DatasetBlock.model_fields and key not in ("store", *also):
            allowed = ", ".join(f"{block}.*" for block in ("store", *also))
            raise ConfigError(f"--set {key}: no effect here (allowed: options of the dataset, {allowed})")
        experiment_file.apply_override(content, override)
    return experiment_file.checked(DatasetBlock, content, f"dataset '{content['name']}'")


def _source(block: DatasetBlock) -> "Source":
    """The dataset of a block, whose settings all have an effect."""
    from harness.data import source

    with refused():
        found = source.of(block)
        source.seen(found.info, block)
    return found


def _command(verb: str, name: str | None, config: Path | None, overrides: list[str] | None) -> str:
    """The command line for the same dataset."""
    parts = ["harness data", verb, name or "", f"--config {config}" if config else ""]
    return " ".join([part for part in parts if part] + [f"--set {override}" for override in overrides or []])


def _size(number: int) -> str:
    from harness.data import disk

    return disk.size(number)
