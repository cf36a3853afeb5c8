"""Checks of what a method says about itself: names, settings, and which tasks it refuses. Nothing is built."""

import inspect
import types
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from harness.conformance.case import INPUTS, Case, ordered, refusal
from harness.conformance.expect import expect
from harness.contract import MethodConfig

NAMES = {"build": 2, "train_step": 5, "predict": 3}
OPTIONAL = {
    "skip": 2, "resolve": 2, "start": 4, "param_groups": 2, "scores_differ": 1, "updates_once": 1, "convergence": 3
}  # fmt: skip
"""Functions of the contract and the number of their arguments."""
CONSTANTS: dict[str, tuple[Any, ...]] = {
    "SPIKING": (True, False),
    "TRAINED": (True, False),
    "MEMORY": ("constant",),
    "REDUCE": ("explicit",),
}
"""Optional constants of the contract, and what they may be."""


def check_names(case: Case) -> None:
    """The module has the names of the contract, and its functions take the contract's arguments."""
    module = case.module
    missing = [name for name in ("Config", *NAMES) if not hasattr(module, name)]
    expect(not missing, f"there is no {', '.join(missing)}; harness.contract.Method says what they are")
    is_config = inspect.isclass(module.Config) and issubclass(module.Config, MethodConfig)
    expect(is_config, f"Config is {module.Config!r}, not a class derived from harness.contract.MethodConfig")
    expect(bool((module.__doc__ or "").strip()), "the module's docstring is empty; `harness list methods` prints it")
    for name, count in (NAMES | OPTIONAL).items():
        if hasattr(module, name):
            _expect_arguments(name, getattr(module, name), count)
    for name, allowed in CONSTANTS.items():
        value = getattr(module, name, allowed[0])
        expect(value in allowed, f"{name} is {value!r}; where it is given, it is {' or '.join(map(repr, allowed))}")
    _expect_settings(module)


def _expect_settings(module: Any) -> None:
    try:
        module.Config(**getattr(module, "EXACT", {}))
    except (TypeError, ValidationError) as error:
        raise AssertionError(f"EXACT is {module.EXACT!r}, not settings of Config: {error}") from error


def _expect_arguments(name: str, function: Any, count: int) -> None:
    expect(isinstance(function, types.FunctionType), f"{name} is {function!r}, not a function")
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError as error:
        given = inspect.signature(function)
        raise AssertionError(
            f"{name}{given} is called with {count} arguments ({error}); see harness.contract.Method"
        ) from error


def check_settings_are_described(case: Case) -> None:
    """Every setting has a description and a default."""
    fields = case.module.Config.model_fields
    silent = [name for name, about in fields.items() if not about.description]
    expect(not silent, f"no description of {', '.join(silent)}; harness.contract.setting takes it")
    required = [name for name, about in fields.items() if about.is_required()]
    expect(not required, f"no default for {', '.join(required)}")
    expect(case.module.Config() == case.module.Config(), "Config() differs from Config()")


def check_settings_are_frozen(case: Case) -> None:
    """Settings cannot be changed, and unknown ones are refused."""
    config = case.module.Config
    expect(config.model_config.get("frozen") is True, "Config is not frozen; MethodConfig is, leave its model_config")
    try:
        config(no_such_setting=1)
    except ValidationError:
        return
    raise AssertionError("Config(no_such_setting=1) is accepted: a misspelt setting would change nothing, in silence")


def check_skip(case: Case) -> None:
    """Every kind of task is accepted or refused in a sentence, and one at least is accepted."""
    reasons = [refusal(replace(case, network=network, inputs=kind)) for network in ordered() for kind in INPUTS]
    for reason in reasons:
        expect(reason is None or _is_sentence(reason), f"skip returned {reason!r}, not the sentence why, or None")
    expect(None in reasons, f"skip refuses every task: {reasons[0]}")


def _is_sentence(text: Any) -> bool:
    return isinstance(text, str) and len(text.split()) > 2 and "\n" not in text


def check_settings_survive_writing(case: Case) -> None:
    """Settings, written down as JSON and read again, are the same settings."""
    config = case.config(case.task())
    again = type(config).model_validate_json(config.model_dump_json())
    expect(again == config, f"{config!r} was written, {again!r} was read")
    twice = case.resolved(type(config)(**config.model_dump()), case.task())
    expect(twice == config, f"`resolve` makes {twice!r} of what it had made before, {config!r}")
