"""Records -> figures for papers: what was measured, drawn so that grey paper and every eye can tell it apart."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness import storage
from harness.plots import accuracy, convergence, early_exit, firing, training
from harness.plots.canvas import Block, Canvas, drawn
from harness.plots.row import Row, rows
from harness.plots.style import settled
from harness.published import Published
from harness.record import Record
from harness.sheet import sheets


class Kind(NamedTuple):
    """One figure."""

    file: str
    """Name without ending."""
    block: Callable[[Row], Block | None]
    """What is shown of one network on one dataset; None where nothing was measured."""


KINDS = {
    "accuracy": Kind("accuracy", accuracy.block),
    "training": Kind("training", training.block),
    "firing": Kind("firing_rates", firing.block),
    "early-exit": Kind("early_exit", early_exit.block),
    "convergence": Kind("convergence", convergence.block),
}
FORMATS = ("svg", "pdf", "png")


def write(
    records: Iterable[Record],
    folder: Path,
    wanted: Mapping[str, Sequence[str]],
    *,
    published: Iterable[Published] = (),
) -> list[Path]:
    """Draw what is `wanted` (kind -> formats) as far as anything was measured for it, and return the files.

    The same records give the same bytes, whatever order they come in.
    """
    written: list[Path] = []
    found = list(records)
    every = rows(sheets(found, published), found)
    with settled():
        for kind, formats in wanted.items():
            block = KINDS[kind].block
            blocks = [made for row in every if (made := block(row)) is not None]
            if blocks:
                storage.make_folder(folder)
                written += _saved(drawn(blocks), folder, KINDS[kind].file, formats)
    return written


def _saved(canvas: Canvas, folder: Path, name: str, formats: Sequence[str]) -> list[Path]:
    files = [folder / f"{name}.{suffix}" for suffix in formats]
    for file, suffix in zip(files, formats, strict=True):
        storage.write_atomic(file, canvas.content(suffix))
    return files


def names(wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """The names of the files that `write` makes where everything was measured."""
    return [f"{KINDS[kind].file}.{suffix}" for kind, formats in wanted.items() for suffix in formats]
