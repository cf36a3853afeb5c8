"""What a person sees while trials run: a bar with ETA on a terminal, plain lines elsewhere, nothing when quiet."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.record import Record

SHORTEST_SECONDS, LONGEST_SECONDS = 2, 30
"""Between two plain lines about how far work is; in between, at every tenth of it."""


class Display:
    """Watches a sweep and shows it on stderr. Progress is counted in epochs, since trials differ in length."""

    def __init__(self, ahead: list[int], *, quiet: bool = False) -> None:
        """`ahead` holds the epochs of every trial that is about to run."""
        self.console = Console(stderr=True, quiet=quiet)
        self.total, self.total_epochs = len(ahead), sum(ahead)
        self.seen: dict[str, int] = {}
        self.done = self.seen_epochs = 0
        self.started = time.monotonic()
        self.bar: Progress | None = None
        if self.console.is_terminal and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"))
            self.bar = Progress(
                *columns, TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), console=self.console
            )
            self.task = self.bar.add_task("training", total=self.total_epochs)

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def epoch(self, trial_id: str, epoch: int, metrics: dict[str, Any]) -> None:
        """An epoch has ended, counted from 1."""
        self._count(trial_id, max(epoch, self.seen.get(trial_id, 0)))
        self._refresh()

    def finished(self, result: Record) -> None:
        """A trial has its record: one line about it."""
        self._count(result.id, result.trial["train"]["epochs"])
        self.done += 1
        self.console.print(
            f"[{self.done}/{self.total}] {described(result)}{self._eta()}", markup=False, highlight=False
        )
        self._refresh()

    def _count(self, trial_id: str, epochs: int) -> None:
        # Summed as they come: adding up all trials at every epoch of every trial would be most of the work.
        self.seen_epochs += epochs - self.seen.get(trial_id, 0)
        self.seen[trial_id] = epochs

    def _refresh(self) -> None:
        if self.bar:
            self.bar.update(self.task, completed=self.seen_epochs)

    def _eta(self) -> str:
        """Time left at the pace so far, for plain lines; the bar shows its own."""
        total, seen = self.total_epochs, self.seen_epochs
        if self.bar or not seen or seen >= total:
            return ""
        left = (time.monotonic() - self.started) * (total - seen) / seen
        return f" · ETA {timedelta(seconds=round(left))}"


class Counts:
    """Shows long work on stderr as it is counted, one piece of work after the other."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.bar: Progress | None = None
        if self.console.is_terminal and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"))
            self.bar = Progress(
                *columns, TextColumn("ETA"), TimeRemainingColumn(), console=self.console, transient=True
            )
        self.what = ""

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def items(self, what: str) -> Callable[[int, int], None]:
        """A function that is told how many are done, and how many there are in all."""
        return lambda done, total: self._show(what, done, total, f"{done} of {total}")

    def transfer(self, what: str, done: int, total: int | None) -> None:
        """So many bytes are done, and so many there are in all, if that is known."""
        self._show(what, done, total, f"{decimal(done)} of {decimal(total)}" if total is not None else decimal(done))

    def _show(self, what: str, done: int, total: int | None, count: str) -> None:
        if what != self.what:
            # What is done at first was so before, and says nothing about how fast it goes.
            self.what, self.start, self.started, self.tenth = what, done, time.monotonic(), _tenth(done, total)
            self.said = self.started
            if self.bar:
                for task in self.bar.task_ids:
                    self.bar.remove_task(task)
                self.task = self.bar.add_task(what, total=total, completed=done, count=count)
            return
        if self.bar:
            self.bar.update(self.task, completed=done, total=total, count=count)
            return
        now, tenth = time.monotonic(), _tenth(done, total)
        if now - self.said > (SHORTEST_SECONDS if tenth > self.tenth else LONGEST_SECONDS):
            self.tenth, self.said = tenth, now
            left = (now - self.started) * ((total or done) - done) / max(done - self.start, 1)
            eta = f", ETA {timedelta(seconds=round(left))}" if total and done < total else ""
            self.console.print(f"{what}: {count}{eta}", markup=False, highlight=False)


def _tenth(done: int, total: int | None) -> int:
    return 10 * done // max(total, 1) if total is not None else 0


@contextmanager
def counted(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A function that is told `done, total` and shows it: a bar with ETA on a terminal, plain lines elsewhere."""
    with Counts(quiet=quiet) as counts:
        yield counts.items(what)


def described(result: Record) -> str:
    """A record in one line: which trial, and what came out or why nothing did."""
    trial = result.trial
    threshold = trial["settings"].get("v_threshold")
    name = f"{trial['label']} T={trial['time_steps']}"
    name += f" v_threshold={threshold:g}" if isinstance(threshold, int | float) else ""
    name += f" seed={trial['seed']}"
    if result.outcome != "done":
        return f"{name}: {result.outcome}: {result.reason}"
    accuracy = result.accuracy[max(result.accuracy)]
    seconds = f" in {result.wall_seconds:.1f} s" if result.wall_seconds is not None else ""
    return f"{name}: {accuracy:.2f} %{seconds}"


def epoch_line(metrics: dict[str, Any]) -> str:
    """What was reported behind an epoch, in one line."""
    shown = {"validation": metrics.get("validation_accuracy"), "test": metrics.get("test_accuracy")}
    accuracies = "".join(f", {part} {value:.2f} %" for part, value in shown.items() if value is not None)
    return f"epoch {metrics['epoch']}: loss {metrics['train_loss']:.4f}{accuracies}"
