"""One attempt at a trial: nobody else at it at the same time, and whatever goes wrong becomes its record.

What ends an attempt without a result, such as a signal, leaves no record: the same command goes on.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial

from harness import claim, record, storage
from harness.interrupt import Interrupted
from harness.lock import Lost
from harness.loop import Stopped
from harness.patience import GaveUp
from harness.plan import Trial
from harness.record import Cost, Outcome, Record
from harness.trial import Guard, Run, blank

log = logging.getLogger(__name__)


def alone(
    trial: Trial, shared: Run, start: Callable[[Guard], Record | None], *,
    stopping: Callable[[], bool] = lambda: False, party: str = "",
) -> Record:  # fmt: skip
    """The trial's record: the one that it has already, or that `start` or another process, which is waited for, makes.

    `start` is given a function that raises Lost once another process has taken the trial. Raises Stopped when
    `stopping()` says so while waiting; what ends `start` without a result, see `recorded`.
    """
    unless = partial(is_over, trial, shared, stopping)
    while True:
        with claim.held(shared.checkpoints(trial), f"training {trial.name}", unless=unless, party=party) as mine:
            if found := measured(trial, shared):
                return found
            if mine is None or stopping():
                raise Stopped
            try:
                return recorded(trial, shared, partial(start, claim.guard(mine, shared.checkpoints(trial))))
            except Lost as lost:
                log.warning("%s: %s", trial.name, lost)


def recorded(trial: Trial, shared: Run, start: Callable[[], Record | None]) -> Record:
    """The trial's record, of outcome `failed` when `start` fails.

    Raises Stopped, GaveUp, Lost and Interrupted, which are no results.
    """
    if found := measured(trial, shared):
        return found
    try:
        result = start()
        assert result is not None, "rank 0 returns the record"
        return result
    except (Stopped, GaveUp, Lost, Interrupted):
        raise
    except Exception as error:  # noqa: BLE001 - the one place where a trial's error becomes its record
        return settled(trial, shared, "failed", reason(error))


def settled(trial: Trial, shared: Run, outcome: Outcome, why: str, *, peak: int | None = None) -> Record:
    """The record of a trial without a result, just written; or the measured one, should there be one by now.

    `peak`: the most bytes that its process was seen to hold.
    """
    if found := measured(trial, shared):
        return found
    result = blank(trial, shared, outcome, why)
    if peak:
        result = result.model_copy(update={"cost": Cost(peak_memory_bytes=peak, peak_memory_kind="resident set")})
    record.write(result, storage.at(shared.folder))
    return result


def measured(trial: Trial, shared: Run) -> Record | None:
    """The trial's record unless it has none, or failed, which is tried again."""
    file = record.path(storage.at(shared.folder), trial.id)
    found = record.read(file) if file.exists() else None
    return found if found and found.outcome != "failed" else None


def is_over(trial: Trial, shared: Run, stopping: Callable[[], bool]) -> bool:
    """Whether waiting for a trial has no purpose any more."""
    return stopping() or measured(trial, shared) is not None


def reason(error: BaseException | None) -> str:
    """What went wrong in one line: the workers' own error where Ray Train wrapped it; how a process died, for short."""
    error = first_of(getattr(error, "worker_failures", {})) or error
    error = getattr(error, "controller_failure", None) or error
    return shortened(str(error)) or type(error).__name__


def first_of(failures: Mapping[int, BaseException] | None) -> BaseException | None:
    """The failure that led to the others: those whose peer has died only lost a connection."""
    died = [error for error in (failures or {}).values() if type(error).__name__.endswith(("DiedError", "ActorError"))]
    return next(iter([*died, *(failures or {}).values()]), None)


def shortened(text: str) -> str:
    """The last line of an error's text; of a process's death its cause, which Ray tells in many lines."""
    if "low on memory" in text or "OutOfMemoryError" in text:
        return "out of memory: Ray ended its process as the node's memory ran low"
    if "node it was running on" in text or "node has died" in text or "Node died" in text or "node failure" in text:
        return "its node died"
    if "worker process has died" in text or "unexpectedly" in text or "ActorDiedError" in text:
        return "its process was killed: by the system if memory ran out, or by somebody"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
