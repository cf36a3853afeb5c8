"""Runs the checks of one method, and shows what came out."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from traceback import extract_tb
from typing import Any, Literal

from harness.conformance import suite
from harness.conformance.case import Case, refused
from harness.conformance.suite import Check


@dataclass(frozen=True)
class Failure:
    """A case for which the fact does not hold, and why."""

    case: str
    reason: str


@dataclass(frozen=True)
class Result:
    """What came out of one check."""

    check: str
    fact: str
    state: Literal["passed", "failed", "absent"]
    cases: int
    failures: tuple[Failure, ...]
    reason: str | None
    """Why the check does not apply, or not to all cases."""
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return vars(self) | {"failures": [vars(failure) for failure in self.failures]}


def results(
    method: str, networks: list[str] | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[Result]:
    """The result of every check, as they are done. `progress` is told how many of how many cases."""
    planned = list(suite.every(method, networks))
    total = sum(len(cases) for _, cases, _ in planned)
    done = 0
    for check, cases, reason in planned:
        failures = []
        started = time.perf_counter()
        for case in cases:
            failures += failure(check, case)
            done += 1
            progress(done, total)
        state: Any = "failed" if failures else "passed" if cases else "absent"
        seconds = time.perf_counter() - started
        yield Result(check.name, check.fact, state, len(cases), tuple(failures), reason, seconds)


def failure(check: Check, case: Case) -> list[Failure]:
    """Try one case: nothing, or why it fails."""
    try:
        check(case)
    except AssertionError as error:
        return [Failure(str(case), str(error))]
    except Exception as error:  # noqa: BLE001 - whatever a method raises is what the check reports
        return [Failure(str(case), f"{type(error).__name__}: {error} ({_where(error, case)})")]
    return []


def _where(error: Exception, case: Case) -> str:
    """The last line of the method that the error came through, or else where it was raised."""
    frames = extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == case.module.__file__]
    frame = [*frames, *own][-1]
    return f"{frame.filename}:{frame.lineno}"


def shown(result: Result) -> str:
    """One line, and below it every failure; cases that fail for the same reason stand together."""
    cases = f"{result.cases} case{'' if result.cases == 1 else 's'}"
    omitted = f"; left out: {result.reason}" if result.reason else ""
    about = f" ({result.reason})" if result.state == "absent" else f" ({cases}, {result.seconds:.1f} s{omitted})"
    word = {"passed": "passed", "failed": "FAILED", "absent": "absent"}[result.state]
    lines = [f"{word}  {result.check}: {result.fact}{about}"]
    alike: dict[str, list[str]] = {}
    for failed in result.failures:
        alike.setdefault(failed.reason, []).append(failed.case)
    for reason, cases_ in alike.items():
        lines.append(f"        {'; '.join(cases_)}")
        lines += [f"            {line}" for line in reason.splitlines() if line]
    return "\n".join(lines)


def summary(method: str, found: list[Result]) -> str:
    """How it went, in a line, and the settings that were left out."""
    failed = [result for result in found if result.state == "failed"]
    cases = sum(result.cases for result in found)
    seconds = sum(result.seconds for result in found)
    tried = sum(result.state != "absent" for result in found)
    verdict = f"{len(failed)} of {tried} checks FAILED" if failed else f"all {tried} checks passed"
    lines = [f"{method}: {verdict}; {cases} cases in {seconds:.0f} s"]
    if not failed:
        lines += [f"not tried alone: {_pairs(settings)}: {reason}" for settings, reason in refused(method)]
    return "\n".join(lines)


def _pairs(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())
