import json
import socket

import pytest

from harness import tracking
from harness.tracking import runs
from tests import records

FILTER = "params.method = 'dsr' and metrics.test_accuracy > 92"


@pytest.fixture(scope="module")
def uri(empty_mlflow, tmp_path_factory):
    """Six trials of two experiments, one of which diverged."""
    copy = tmp_path_factory.mktemp("runs") / "mlflow.db"
    copy.write_bytes(empty_mlflow.read_bytes())
    found = [
        records.made(method, seed=seed, accuracy=90.0 + seed + 2 * (method == "dsr"), cost=records.measured(1.0 + seed))
        for method in ("bptt", "dsr") for seed in range(2)
    ]  # fmt: skip
    tracking.resend([*found, records.broken("diverged", seed=7)], f"sqlite:///{copy}", "digits")
    tracking.resend([records.made("ide", experiment="other", accuracy=50.0)], f"sqlite:///{copy}", "other")
    return f"sqlite:///{copy}"


def test_every_trial_is_found_and_no_sweep_s_own_run(uri):
    assert len(runs.find(None, uri)) == 6
    assert len(runs.find("", uri, experiment="digits")) == 5


def test_a_filter_is_mlflow_s(uri):
    (row,) = runs.find(FILTER, uri)
    assert (row["method"], row["time_steps"], row["seed"], row["accuracy"], row["outcome"]) == (
        "dsr",
        4,
        1,
        93.0,
        "done",
    )
    assert [row["seed"] for row in runs.find("tags.outcome = 'diverged'", uri)] == [7]


def test_the_best_come_first_whichever_way_a_metric_is_good(uri):
    assert [row["accuracy"] for row in runs.find(None, uri, best="test_accuracy", limit=2)] == [93.0, 92.0]
    fastest = runs.find("params.method = 'dsr'", uri, best="cost/latency_ms")
    assert [row["cost/latency_ms"] for row in fastest] == [1.0, 2.0]


def test_more_than_a_page_is_found(uri, monkeypatch):
    monkeypatch.setattr(runs, "PAGE", 2)
    assert len({row["run_id"] for row in runs.find(None, uri, limit=5)}) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["metrics.test_accuracy >"], "MLflow does not take this filter: "),
        (["test_accuracy > 90"], "MLflow does not take this filter: "),
        (["--experiment", "digts"], "no experiment 'digts'; did you mean 'digits'?"),
        (["--best", "test_acuracy"], "no metric 'test_acuracy'; did you mean 'test_accuracy'?"),
        (["--uri", "sqlite:////nowhere/mlflow.db"], "sqlite:////nowhere/mlflow.db: no such database; give --uri"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, message, uri, harness):
    code, out, err = harness("runs", "--uri", uri, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_server_that_is_away_is_a_failure_and_its_password_is_not_told(harness):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        code, _, err = harness("runs", "--uri", f"http://me:word@127.0.0.1:{closed.getsockname()[1]}")
    assert (code, err.count("\n")) == (1, 1)
    assert "word" not in err


def test_rows_are_printed_as_a_table_and_as_json(uri, harness):
    code, out, _ = harness("runs", FILTER, "--uri", uri)
    assert code == 0
    assert "1 trials" in out
    assert "93" in out
    code, out, _ = harness("runs", FILTER, "--uri", uri, "--json", "--limit", 1)
    assert [row["trial"] for row in json.loads(out)] == [records.made("dsr", seed=1, accuracy=93.0).id]


def test_where_no_trial_fits_the_output_is_empty_and_says_so(uri, harness):
    query = "params.method = 'nothing'"
    assert harness("runs", query, "--uri", uri) == (0, "", "no trial fits\n")
    assert harness("runs", query, "--uri", uri, "--json") == (0, "[]\n", "")
