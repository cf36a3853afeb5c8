"""The contract: what every file in `methods/` has to do, on every network that it accepts. See harness/conformance."""

import pytest

from harness import plugins
from harness.conformance import suite
from harness.conformance.case import INPUTS, Case, ordered, refusal

METHODS = plugins.names("methods")
ITEMS = [
    pytest.param(check, case, id=f"{method}: {check.name}: {case}")
    for method in METHODS
    for check, cases, _ in suite.every(method)
    for case in cases
]


@pytest.mark.parametrize(("check", "case"), ITEMS)
def test_method_keeps_the_contract(check, case):
    check(case)


@pytest.mark.parametrize("method", METHODS)
def test_refusal_names_the_method_and_the_network(method):
    for network in ordered():
        for inputs in INPUTS:
            reason = refusal(Case(method, network, inputs))
            assert reason is None or (method in reason and network in reason)
