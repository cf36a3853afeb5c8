"""What all tests have in common."""

import sys

import hypothesis
import pytest

from harness import cli, cluster

# Ray reads it when it is imported, and tests that share a process import it at different times.
cluster.prepare_environment()

# A busy machine is slow now and then; that is no fact about our code.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: the last to end is then a quick one, and no process waits for another."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def harness(monkeypatch, capsys):
    """Run one command line and return its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        code = left.value.code
        return (code if isinstance(code, int) else 0), shown.out, shown.err

    return run
