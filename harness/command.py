"""What all commands share: their options, and how they say what came out and what was wrong."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Table

from harness import storage
from harness.experiment_file import ConfigError

NARROWEST, WIDEST = 160, 2000
"""Characters of a line on stdout where it is no terminal."""

File = Annotated[Path, typer.Argument(metavar="FILE", help="Experiment file (YAML).")]
Paths = Annotated[list[str], typer.Argument(metavar="PATH...", help="Records or folders that hold them.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override anything in the file.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print results as JSON.")]


@contextmanager
def refused(where: str = "") -> Iterator[None]:
    """Turn what plug-ins and readers say into one line: wrong input into a ConfigError, a failure into exit code 1."""
    try:
        yield
    except ConfigError:
        raise
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"{where}{_sentence(error)}") from error
    except OSError as error:
        print(f"harness: {where}{_sentence(error)}", file=sys.stderr)
        raise typer.Exit(1) from error


def _sentence(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)


def show(table: Any) -> None:
    """A table on stdout: as wide as the terminal, or wide enough for every column where nobody looks."""
    Console(width=None if sys.stdout.isatty() else _width(table)).print(table)


def plain(table: Any) -> str:
    """The same text for a file."""
    console = Console(width=_width(table))
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def _width(shown: Any) -> int:
    """Characters that the widest table needs, and no fewer than make a line of text readable."""
    if isinstance(shown, Group):
        return max(map(_width, shown.renderables), default=NARROWEST)
    if not isinstance(shown, Table):
        return NARROWEST
    endless = Console(width=WIDEST)
    return max(NARROWEST, Measurement.get(endless, endless.options, shown).maximum)


@contextmanager
def warnings(quiet: bool) -> Iterator[None]:
    """What the harness warns of within the block is said, unless quiet."""
    log = logging.getLogger("harness")
    before = log.level
    log.setLevel(logging.ERROR if quiet else before)
    try:
        yield
    finally:
        log.setLevel(before)


def say(quiet: bool, text: str) -> None:
    if text and not quiet:
        print(text, file=sys.stderr)


def short(path: Path) -> str:
    if storage.is_remote(path):
        return str(path)
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
