"""Commands that put records beside each other: the table that a paper would print, and two methods compared."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness import storage
from harness.command import Json, Paths, plain, refused, say, short, show
from harness.experiment_file import ConfigError

app = typer.Typer()

Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="KEY=VALUE[,VALUE]", help="Only these: dataset, network, method, a setting."),
]


class Format(StrEnum):
    """How a table is written."""

    terminal = "terminal"
    md = "md"
    csv = "csv"
    latex = "latex"
    html = "html"
    json = "json"


COLUMNS = (
    "accuracy", "top5", "validation", "latency", "p95", "p99", "batched", "samples", "train_samples", "memory",
    "firing_rate", "dead", "saturated", "synops", "macs", "acs", "dense", "energy", "energy_memory", "energy_ann",
    "energy_ratio", "parameters", "neurons", "train_seconds", "worker_hours", "accelerator_hours", "trials",
    "early_exit", "error", "failed",
)  # fmt: skip
"""The names in `harness.columns`, said again: not every command's start should wait for that module."""
SUFFIXES = {
    ".md": Format.md, ".csv": Format.csv, ".tex": Format.latex, ".html": Format.html, ".json": Format.json,
    ".txt": Format.terminal,
}  # fmt: skip
"""Ending of a file's name -> what is written into it, unless --format says otherwise."""


@app.command(epilog="Example: harness table results/digits --columns accuracy,latency,p95 --where network=mlp -o t.tex")
def table(
    paths: Paths,
    format: Annotated[
        Format | None, typer.Option("--format", "-f", help="How to write it; by default as FILE ends.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help=f"Columns after those that name the row, among: {', '.join(COLUMNS)}."),
    ] = None,
    group_by: Annotated[
        str,
        typer.Option(metavar="KEY,…", help="What makes a table of its own: dataset, network, method, T or a setting.")
    ] = "dataset",
    where: Where = None,
    published: Annotated[bool, typer.Option(help="Figures from papers beside the measured ones.")] = True,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Also published figures that nobody has looked up; they are marked.")
    ] = False,
    anytime: Annotated[
        bool, typer.Option("--anytime", help="Also accuracy after every step of one simulation.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there.")] = None,
) -> None:  # fmt: skip
    """Accuracy against latency from records, beside published figures."""
    from harness import columns as known
    from harness import published as papers
    from harness import sheet, tables

    if unverified and not published:
        raise ConfigError("--unverified has no effect with --no-published")
    format = _format(format, output)
    names = _names(columns)
    with refused(), _uncollected():
        known.chosen(names)
        rows = papers.shipped(unverified=unverified) if published else []
        found = sheet.sheets(_extracts(paths), rows, by=_names(group_by), where=where or ())
        if format is not Format.terminal:
            text = tables.written(found, format.value, measures=names, anytime=anytime)  # type: ignore[arg-type]
            _put(text, output)
        elif output:
            _put(plain(tables.shown(found, measures=names, anytime=anytime)), output)
        else:
            show(tables.shown(found, measures=names, anytime=anytime))


def _extracts(paths: list[str]) -> list:
    """Of every record under the paths what tables read."""
    from harness import extract

    found = extract.read_all(map(storage.given, paths))
    if not found:
        raise ConfigError(f"no records under {', '.join(paths)}")
    return found


def _format(asked: Format | None, output: Path | None) -> Format:
    if asked or not output:
        return asked or Format.terminal
    if output.suffix not in SUFFIXES:
        raise ConfigError(f"--output {output}: which --format? its ending is none of {', '.join(SUFFIXES)}")
    return SUFFIXES[output.suffix]


def _steps(text: str | None) -> list[int]:
    try:
        steps = [int(name) for name in _names(text)]
    except ValueError:
        raise ConfigError(f"--time-steps {text}: expected whole numbers separated by commas") from None
    if steps and min(steps) < 1:
        raise ConfigError(f"--time-steps {text}: time steps count from 1")
    return steps


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


def _put(text: str, output: Path | None) -> None:
    if output is None:
        print(text, end="")
        return
    storage.write_atomic(output, text)
    say(False, f"written: {short(output.absolute())}")


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cycles, which would look through every record again and again, and find none."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Written(StrEnum):
    """How a comparison is written."""

    terminal = "terminal"
    md = "md"
    latex = "latex"
    html = "html"


@app.command(epilog="Example: harness compare dsr bptt results/digits --time-steps 2,4")
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A method: LABEL[@NETWORK][:KEY=VALUE,…].")],
    b: Annotated[str, typer.Argument(metavar="B", help="What it is compared with, in the same form.")],
    paths: Paths,
    against: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Records of B, where they are not among A's.")
    ] = None,
    time_steps: Annotated[str | None, typer.Option(help="Only these T, separated by commas.")] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.95,
    bootstrap: Annotated[bool, typer.Option("--bootstrap", help="Intervals by resampling instead of by t.")] = False,
    format: Annotated[Written | None, typer.Option("--format", "-f", help="How to write it.")] = None,
    json_: Json = False,
) -> None:  # fmt: skip
    """Which of two methods is better, and how sure that is: the chosen settings of each, paired over seeds.

    Pairs have dataset, network and T in common, but for what both A and B name: dsr:T=2 dsr:T=8 is a pair.
    """
    from harness import compare, comparison, markup

    if json_ and format:
        raise ConfigError("--json and --format: one of them")
    with refused(), _uncollected():
        steps = _steps(time_steps)
        asked = compare.selector(a), compare.selector(b)
        others = _extracts(against) if against else None
        found = compare.of(
            *asked, _extracts(paths), others, time_steps=steps, confidence=confidence, bootstrap=bootstrap
        )
    if json_:
        print(comparison.json(found), end="")
        return
    tables = comparison.tables(found)
    match format:
        case None | Written.terminal:
            for table in tables:
                show(markup.terminal(table))
        case Written.md:
            print("\n".join(map(markup.markdown, tables)), end="")
        case Written.latex:
            print("\n".join(map(markup.latex, tables)), end="")
        case Written.html:
            print(markup.STYLE + "".join(map(markup.html, tables)), end="")
