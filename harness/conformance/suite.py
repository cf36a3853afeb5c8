"""The table of all checks, and which cases each of them is tried on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch

from harness.conformance import declaration, memory, prediction, start, training, workers
from harness.conformance.case import Case, cases, load, ordered, refusal

Direction = Literal["settings", "networks", "inputs"]
EVERYWHERE: tuple[Direction, ...] = ("settings", "networks", "inputs")


def _never(case: Case) -> str | None:
    return None


@dataclass(frozen=True)
class Check:
    """A function of a case, and where it is tried."""

    function: Callable[[Case], None]
    over: tuple[Direction, ...] = ()
    """What is varied; everything else is as in the method's first case."""
    unless: Callable[[Case], str | None] = _never
    """The reason why the check does not apply to a case, or None."""

    def __call__(self, case: Case) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the networks are too small to share out; several threads take many times as long
        try:
            self.function(case)
        finally:
            torch.set_num_threads(threads)

    @property
    def name(self) -> str:
        return self.function.__name__.removeprefix("check_")

    @property
    def fact(self) -> str:
        """What it states, in a sentence."""
        return (self.function.__doc__ or "").partition("\n")[0].removesuffix(".")

    def cases(self, every: list[Case]) -> list[Case]:
        """Those of a method's cases that it is tried on, before `unless` is asked."""
        home = every[0]
        same: dict[Direction, Callable[[Case], bool]] = {
            "settings": lambda case: case.settings == home.settings,
            "networks": lambda case: case.network == home.network,
            "inputs": lambda case: case.inputs == home.inputs,
        }
        return [case for case in every if all(fits(case) for way, fits in same.items() if way not in self.over)]


def _untrained(case: Case) -> str | None:
    return None if case.trained else "nothing is trained (TRAINED = False)"


def _without_time(case: Case) -> str | None:
    return None if getattr(case.module, "SPIKING", True) else "it has no time steps (SPIKING = False)"


def _moving(case: Case) -> str | None:
    return "no still images are accepted" if case.temporal else None


def _no_claim(case: Case) -> str | None:
    if not hasattr(case.module, "MEMORY"):
        return 'nothing is claimed (MEMORY = "constant")'
    harder = not case.temporal and refusal(replace(case, inputs="moving")) is None
    return "input that moves is the harder case" if harder else None


def _ungrouped(case: Case) -> str | None:
    return None if hasattr(case.module, "param_groups") else "there is none"


def _unmeasured(case: Case) -> str | None:
    return None if hasattr(case.module, "convergence") else "there is none"


def _fresh(case: Case) -> str | None:
    return None if hasattr(case.module, "start") else "there is none"


def _differing(case: Case) -> str | None:
    return _untrained(case) or getattr(case.module, "scores_differ", lambda config: None)(case.config(case.task()))


DECLARATION = [
    Check(declaration.check_names),
    Check(declaration.check_settings_are_described),
    Check(declaration.check_settings_are_frozen),
    Check(declaration.check_skip),
]
"""What has to hold before cases can be found."""

CHECKS = [
    Check(declaration.check_settings_survive_writing, ("settings",)),
    Check(prediction.check_build, ("settings", "networks")),
    Check(prediction.check_shape, EVERYWHERE),
    Check(prediction.check_samples_differ, ("networks", "inputs")),
    Check(prediction.check_repeats, EVERYWHERE),
    Check(prediction.check_no_trace, EVERYWHERE),
    Check(prediction.check_samples_apart, EVERYWHERE),
    Check(prediction.check_order, EVERYWHERE),
    Check(prediction.check_causal, EVERYWHERE, _without_time),
    Check(prediction.check_still_view, ("settings", "networks"), _moving),
    Check(prediction.check_convergence, EVERYWHERE, _unmeasured),
    Check(training.check_input_untouched, EVERYWHERE),
    Check(training.check_output, EVERYWHERE, _untrained),
    Check(training.check_every_gradient, EVERYWHERE, _untrained),
    Check(training.check_updates_once, ("settings",), _untrained),
    Check(training.check_parts, ("settings",), _untrained),
    Check(start.check_start, ("inputs",), _fresh),
    Check(training.check_param_groups, ("settings", "networks"), lambda case: _ungrouped(case) or _untrained(case)),
    Check(training.check_scores_agree, EVERYWHERE, _differing),
    Check(training.check_step_forgets, EVERYWHERE, _untrained),
    Check(training.check_still_view_trains, ("settings", "networks"), lambda case: _moving(case) or _untrained(case)),
    Check(training.check_seeds, EVERYWHERE, _untrained),
    Check(training.check_state_dict, ("settings", "networks")),
    Check(training.check_loss_falls, EVERYWHERE, _untrained),
    Check(training.check_probabilities, ("settings", "inputs"), _untrained),
    Check(training.check_half_precision, EVERYWHERE, _untrained),
    Check(memory.check_memory, ("networks", "inputs"), lambda case: _no_claim(case) or _untrained(case)),
    Check(workers.check_workers, ("settings",), _untrained),
]


def every(method: str, networks: list[str] | None = None) -> Iterator[tuple[Check, list[Case], str | None]]:
    """Every check with its cases, and why there are not more. Where the declaration is wrong, nothing else is tried.

    Raises ValueError for a method or network that there is not.
    """
    load(method)
    bare = Case(method, ordered(networks)[0])
    for check in DECLARATION:
        yield check, [bare], None
    if not all(_holds(check, bare) for check in DECLARATION):
        return
    found = cases(method, networks)
    if not found:
        raise ValueError("; ".join(str(refusal(Case(method, network))) for network in ordered(networks)))
    for check in CHECKS:
        tried = check.cases(found)
        reasons = [check.unless(case) for case in tried]
        kept = [case for case, reason in zip(tried, reasons, strict=True) if reason is None]
        yield check, kept, "; ".join(dict.fromkeys(reason for reason in reasons if reason)) or None


def _holds(check: Check, case: Case) -> bool:
    try:
        check(case)
    except Exception:  # noqa: BLE001 - who runs the check sees it again
        return False
    return True
