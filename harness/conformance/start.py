"""Check of `start`, which begins from the weights of another trial."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from harness import plugins
from harness.conformance.case import Case, refusal, variants
from harness.conformance.expect import expect, expect_equal
from harness.contract import Origin

UNKNOWN = "no_such.weight"


def check_start(case: Case) -> None:
    """`start` begins from some method's weights, the same from every seed, and names what has no counterpart."""
    origin, weights = _accepted(case)
    net, other = _begun(case, origin, weights), _begun(case, origin, weights, seed=1)
    for key, value in net.state_dict().items():
        expect_equal(value, other.state_dict()[key], f"{key} depends on the seed of `build`, not on what is given")
    scores = case.module.predict(net, case.x(), _config(case, origin))
    expect(scores.isfinite().all(), f"scores are not finite after a start from {origin}")

    first = next(iter(weights))
    missing = {key: value for key, value in weights.items() if key != first}
    for name, wrong in ((UNKNOWN, weights | {UNKNOWN: torch.zeros(1)}), (first, missing)):
        try:
            _begun(case, origin, wrong)
        except ValueError as error:
            expect(name in str(error), f"{name} has no counterpart, and the ValueError does not name it: {error}")
        else:
            raise AssertionError(f"{name} has no counterpart, and no ValueError names it; see models/transfer.py")


def _accepted(case: Case) -> tuple[Case, dict[str, Tensor]]:
    """A method, and weights of it, that this one starts from."""
    refusals = []
    for origin in _origins(case):
        weights = origin.build()[2].state_dict()
        try:
            _begun(case, origin, weights)
        except ValueError as error:
            refusals.append(f"{origin.method}, {origin}: {error}")
        else:
            return origin, weights
    raise AssertionError("\n".join(["`start` accepts no method's weights:", *refusals]))


def _origins(case: Case) -> Iterator[Case]:
    """Every trained method, with each of its settings, that `skip` lets this one start from."""
    for method in dict.fromkeys([*plugins.names("methods"), case.method]):
        bare = Case(method, case.network, case.inputs)
        if not bare.trained or refusal(bare) is not None:
            continue
        for settings in [{}, *variants(method)]:
            origin = replace(bare, settings=settings)
            skip = getattr(case.module, "skip", lambda config, task: None)
            if refusal(origin) is None and skip(case.module.Config(**case.settings), _task(case, origin)) is None:
                yield origin


def _task(case: Case, origin: Case) -> Any:
    settings = origin.config(origin.task()).model_dump()
    return replace(case.task(), start=Origin(origin.method, settings, origin.task().time_steps))


def _config(case: Case, origin: Case) -> Any:
    return case.config(_task(case, origin))


@torch.no_grad()
def _begun(case: Case, origin: Case, weights: dict[str, Tensor], *, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = case.module.build(_config(case, origin), _task(case, origin)).eval()
    copies = {key: value.clone() for key, value in weights.items()}
    case.module.start(net, copies, (case.x(seed=index) for index in range(3)), _config(case, origin))
    return net
