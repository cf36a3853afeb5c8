"""`pytest --harness-method METHOD`: the conformance suite, an item for every check and case, for methods anywhere.

METHOD is what `harness check` takes. Nothing is imported and nothing happens without the option.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.conformance.case import Case
    from harness.conformance.suite import Check


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("snn-harness").addoption(
        "--harness-method", metavar="METHOD", action="append", default=[],
        help="check this training method: a name, a dotted module name, or the path of a .py file; may be repeated",
    )  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before -k and -m choose
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the items of every method that is asked for."""
    for method in config.getoption("--harness-method"):
        from harness.conformance import suite

        try:
            planned = list(suite.every(method))
        except ValueError as error:
            raise pytest.UsageError(f"--harness-method {method}: {error}") from error
        for check, cases, _ in planned:
            for case in cases:
                name = f"{Path(method).stem}::{check.name}[{case}]"
                items.append(ConformanceItem.from_parent(session, name=name, check=check, case=case))


class ConformanceItem(pytest.Item):
    """One check on one case."""

    def __init__(self, *, check: "Check", case: "Case", **about: Any) -> None:
        super().__init__(**about)
        self.check, self.case = check, case

    def runtest(self) -> None:
        """Try it."""
        self.check(self.case)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """What the check has to say; where in its own code does not matter, unlike where in the method's."""
        if excinfo.errisinstance(AssertionError):
            return f"{self.check.fact}: does not hold.\n{excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, None, str]:
        """Where a report lists it."""
        return self.case.method, None, self.name
