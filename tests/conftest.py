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


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory):
    """MLflow's database with its tables made, which takes seconds."""
    from harness.tracking import server

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    server.client(f"sqlite:///{file}")
    return file


@pytest.fixture
def mlflow_uri(empty_mlflow, tmp_path):
    """A database of its own for a test."""
    copy = tmp_path / "mlflow.db"
    copy.write_bytes(empty_mlflow.read_bytes())
    return f"sqlite:///{copy}"
