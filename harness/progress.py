"""What a person sees while trials run: a bar with ETA on a terminal, plain lines elsewhere, nothing when quiet."""

import time
from collections.abc import Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.plan import Trial
from harness.record import Record


class Display:
    """Watches a sweep and shows it on stderr. Progress is counted in epochs, since trials differ in length."""

    def __init__(self, trials: Iterable[Trial], *, points: int = 1, quiet: bool = False) -> None:
        """`points` is how many times a study runs each of the trials with other settings."""
        self.console = Console(stderr=True, quiet=quiet)
        self.epochs = {trial.id: trial.train.epochs for trial in trials}
        self.seen = dict.fromkeys(self.epochs, 0)
        self.done = 0
        self.started = time.monotonic()
        self.bar: Progress | None = None
        if self.console.is_terminal and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"))
            self.bar = Progress(
                *columns, TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), console=self.console
            )
            self.task = self.bar.add_task("training", total=sum(self.epochs.values()))

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def epoch(self, trial_id: str, epoch: int, metrics: dict[str, Any]) -> None:
        """An epoch has ended, counted from 1."""
        self.seen[trial_id] = max(epoch, self.seen.get(trial_id, 0))
        self._refresh()

    def finished(self, result: Record) -> None:
        """A trial has its record: one line about it."""
        self.seen[result.id] = self.epochs.get(result.id, self.seen.get(result.id, 0))
        self.done += 1
        self.console.print(
            f"[{self.done}/{len(self.epochs)}] {described(result)}{self._eta()}", markup=False, highlight=False
        )
        self._refresh()

    def _refresh(self) -> None:
        if self.bar:
            self.bar.update(self.task, completed=sum(self.seen.values()))

    def _eta(self) -> str:
        """Time left at the pace so far, for plain lines; the bar shows its own."""
        total, seen = sum(self.epochs.values()), sum(self.seen.values())
        if self.bar or not seen or seen >= total:
            return ""
        left = (time.monotonic() - self.started) * (total - seen) / seen
        return f" · ETA {timedelta(seconds=round(left))}"


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
