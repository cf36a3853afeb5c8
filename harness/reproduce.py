"""Runs a recorded trial again from nothing but its record, and says what came out differently."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness import plugins
from harness.config import Evaluation, Experiment, MethodBlock, Scale, Tracking
from harness.experiment_file import checked
from harness.plan import Trial
from harness.record import Record

Verdict = Literal["identical", "same accuracy", "different"]


class Setting(NamedTuple):
    """Something about a run's surroundings that was another one then."""

    what: str
    recorded: str
    here: str


@dataclass(frozen=True)
class Comparison:
    """A record beside the one that its trial gives here and now. Accuracies in percent."""

    id: str
    outcomes: tuple[str, str]
    accuracies: dict[int, tuple[float, float]]
    """t -> test accuracy recorded and here, where both have one."""
    first_other_epoch: int | None
    """The first epoch with another training loss; None when all are equal to the bit."""
    surroundings: tuple[Setting, ...]

    @property
    def difference(self) -> float | None:
        """Test accuracy here less the recorded one after all T steps, in percentage points."""
        if not self.accuracies:
            return None
        recorded, here = self.accuracies[max(self.accuracies)]
        return here - recorded

    @property
    def verdict(self) -> Verdict:
        """'identical': the same outcome, training losses and accuracies to the bit."""
        if self.outcomes[0] != self.outcomes[1] or any(before != after for before, after in self.accuracies.values()):
            return "different"
        return "identical" if self.first_other_epoch is None else "same accuracy"

    def is_within(self, tolerance: float) -> bool:
        """Whether the outcome is the same and the accuracy at T differs by no more than so many percentage points."""
        return self.outcomes[0] == self.outcomes[1] and abs(self.difference or 0.0) <= tolerance

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        surroundings = [setting._asdict() for setting in self.surroundings]
        derived = {"difference": self.difference, "verdict": self.verdict, "surroundings": surroundings}
        return asdict(self) | derived


def trial_of(measured: Record) -> Trial:
    """The trial that a record is of.

    Raises ValueError where this version of the harness does not know one of its settings.
    """
    try:
        return Trial.model_validate(measured.trial)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("trial", *first["loc"])))
        raise ValueError(f"{where}: {first['msg']} (recorded by version {_version(measured)})") from error


def refuse_unknown(trial: Trial) -> None:
    """Raise ValueError where this installation lacks the trial's method or network, or knows other settings of it."""
    checked(plugins.load("methods", trial.method).Config, trial.settings, "trial.settings")
    plugins.load("networks", trial.network.name)
    if trial.start:
        refuse_unknown(trial.start)


def experiment_of(measured: Record, trial: Trial, results: Path) -> Experiment:
    """An experiment of this one trial, whose records go below `results`."""
    return Experiment(
        name=measured.experiment,
        dataset=trial.dataset,
        network=trial.network,
        methods=(MethodBlock(name=trial.method, label=trial.label, settings=trial.settings),),
        time_steps=(trial.time_steps,),
        seeds=(trial.seed,),
        train=trial.train,
        scale=Scale(workers=trial.workers),
        evaluation=Evaluation(selection=trial.selection),
        tracking=Tracking(mlflow=False),
        results=str(results),
    )


def compared(recorded: Record, here: Record) -> Comparison:
    """What two records of one trial have in common and what not."""
    both = sorted(set(recorded.accuracy) & set(here.accuracy))
    return Comparison(
        id=recorded.id,
        outcomes=(recorded.outcome, here.outcome),
        accuracies={t: (recorded.accuracy[t], here.accuracy[t]) for t in both},
        first_other_epoch=_first_other_epoch(recorded, here),
        surroundings=tuple(_surroundings(recorded, here)),
    )


def shown(comparison: Comparison) -> RenderableType:
    """The comparison for a terminal."""
    table = Table(title=f"{comparison.id}, reproduced", title_justify="left", box=SIMPLE_HEAD)
    for column in ("time steps", "recorded %", "here %", "difference"):
        table.add_column(column, justify="right")
    for t, (before, after) in comparison.accuracies.items():
        table.add_row(str(t), f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}")
    return Group(*([table] if comparison.accuracies else []), *map(Text, _sentences(comparison)))


def _sentences(comparison: Comparison) -> list[str]:
    recorded, here = comparison.outcomes
    said = [f"outcome: {recorded}" if recorded == here else f"outcome: {here} instead of {recorded}"]
    if comparison.first_other_epoch is None:
        said.append("every epoch's training loss is the same to the bit")
    else:
        said.append(f"training loss differs from epoch {comparison.first_other_epoch} on")
    said += [f"{what}: {here} instead of {recorded}" for what, recorded, here in comparison.surroundings]
    return [*said, f"verdict: {comparison.verdict}"]


def _first_other_epoch(recorded: Record, here: Record) -> int | None:
    """By representation, so that a loss that is not a number equals another such one."""
    losses = [[repr(epoch.train_loss) for epoch in each.history] for each in (recorded, here)]
    for place in range(max(map(len, losses))):
        if losses[0][place : place + 1] != losses[1][place : place + 1]:
            return place + 1
    return None


def _surroundings(recorded: Record, here: Record) -> list[Setting]:
    pairs: list[tuple[str, Any, Any]] = [
        ("data", _fingerprint(recorded), _fingerprint(here)),
        ("commit", _commit(recorded), _commit(here)),
        ("CPU", recorded.machine.get("cpu"), here.machine.get("cpu")),
        ("GPU", _gpu(recorded), _gpu(here)),
    ]
    names = sorted({*recorded.versions, *here.versions})
    pairs += [(name, recorded.versions.get(name), here.versions.get(name)) for name in names]
    return [Setting(what, str(a or "none"), str(b or "none")) for what, a, b in pairs if a != b]


def _fingerprint(of: Record) -> str | None:
    return str(of.data["fingerprint"])[:19] if of.data.get("fingerprint") else None


def _commit(of: Record) -> str | None:
    return f"{of.commit[:7]}{' with uncommitted changes' if of.dirty else ''}" if of.commit else None


def _gpu(of: Record) -> str | None:
    return ", ".join(of.machine.get("gpus") or []) or None


def _version(of: Record) -> str:
    return of.versions.get("harness", "unknown")
