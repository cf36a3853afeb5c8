import os
import socket
import subprocess
import sys
import time

import pytest

from harness import tracking
from tests import records


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A database with its tables made, which takes seconds."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    tracking._client(f"sqlite:///{file}")
    return file


@pytest.fixture
def uri(empty, tmp_path):
    copy = tmp_path / "mlflow.db"
    copy.write_bytes(empty.read_bytes())
    return f"sqlite:///{copy}"


def runs(uri, experiment="digits"):
    """The sweeps' runs and the trials' runs."""
    client = tracking._client(uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    is_child = "mlflow.parentRunId"
    return [r for r in found if is_child not in r.data.tags], [r for r in found if is_child in r.data.tags]


def wait_for(port: int) -> None:
    for _ in range(120):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise TimeoutError(f"nothing listens on port {port}")


def test_a_sweep_is_one_parent_with_one_child_a_trial(uri):
    tracking.resend([records.made(seed=seed) for seed in range(3)], uri, "digits")
    (parent,), children = runs(uri)
    assert len(children) == 3
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert parent.info.status == "FINISHED"


def test_sending_again_changes_nothing(uri):
    found = [records.made(seed=seed) for seed in range(2)]
    assert tracking.resend(found, uri, "digits") == 2
    before = runs(uri)
    assert tracking.resend(found, uri, "digits") == 0
    assert [[r.info.run_id for r in kind] for kind in runs(uri)] == [[r.info.run_id for r in kind] for kind in before]


def test_a_changed_record_replaces_its_run(uri):
    tracking.resend([records.broken("failed")], uri, "digits")
    tracking.resend([records.made()], uri, "digits")
    _, (child,) = runs(uri)
    assert (child.info.status, child.data.tags["outcome"]) == ("FINISHED", "done")


def test_a_run_that_was_sent_by_half_is_sent_whole(uri):
    tracking.resend([records.made()], uri, "digits")
    _, (child,) = runs(uri)
    tracking._client(uri).delete_tag(child.info.run_id, "harness.digest")
    assert tracking.resend([records.made()], uri, "digits") == 1
    assert len(runs(uri)[1]) == 1


def test_another_commit_is_another_sweep(uri):
    tracking.resend([records.made(), records.made(commit="fedcba9876543210")], uri, "digits")
    parents, children = runs(uri)
    assert (len(parents), len(children)) == (2, 2)


def test_metrics_stand_at_their_epoch_and_at_their_time_step(uri):
    tracking.resend([records.made(time_steps=4, accuracy=90.0, cost=records.measured())], uri, "digits")
    _, (child,) = runs(uri)
    client = tracking._client(uri)
    losses = client.get_metric_history(child.info.run_id, "epoch/train_loss")
    assert [(metric.step, metric.value) for metric in losses] == [(1, 1.0), (2, 0.5)]
    curve = client.get_metric_history(child.info.run_id, "accuracy_at_t")
    assert [(metric.step, metric.value) for metric in curve] == [(1, 75.0), (2, 80.0), (3, 85.0), (4, 90.0)]
    assert child.data.metrics["test_accuracy"] == 90.0
    assert child.data.metrics["cost/latency/batch 1 T 4/median_ms"] == 1.5
    assert len(child.data.metrics) == len(
        {name for name, _, _ in tracking.metrics(records.made(cost=records.measured()))}
    )


def test_the_trial_is_the_run_s_parameters(uri):
    tracking.resend([records.made(settings={"note": "x" * 9000})], uri, "digits")
    _, (child,) = runs(uri)
    assert child.data.params["settings.v_threshold"] == "1.0"
    assert child.data.params["network.name"] == "mlp"
    assert child.data.params["settings.note"].endswith("… (cut off)")


def test_a_run_bears_the_trial_s_time_commit_and_outcome(uri):
    tracking.resend([records.broken("diverged", "loss is NaN", dirty=True)], uri, "digits")
    _, (child,) = runs(uri)
    assert child.info.status == "FAILED"
    assert child.info.end_time - child.info.start_time == 12500
    tags = child.data.tags
    assert (tags["outcome"], tags["reason"], tags["dirty"]) == ("diverged", "loss is NaN", "true")
    assert tags["commit"] == "0123456789abcdef"


def test_long_histories_go_in_several_requests(uri):
    record = records.made(history=[records.epoch(number) for number in range(1, 301)])
    tracking.resend([record], uri, "digits")
    _, (child,) = runs(uri)
    assert len(tracking._client(uri).get_metric_history(child.info.run_id, "epoch/lr")) == 300


def test_names_that_mlflow_refuses_are_mended(uri):
    epoch = records.epoch(1).model_copy(update={"extras": {"residual |f(z) - z|": 0.1}})
    assert tracking.resend([records.made(history=[epoch])], uri, "digits") == 1


def test_a_tracker_sends_what_a_resend_would(uri, tmp_path):
    table = tmp_path / "table.md"
    table.write_text("| a |")
    tracker = tracking.Tracker(uri, "digits")
    for seed in range(2):
        tracker.finished(records.made(seed=seed))
    tracker.artifacts([table])
    assert tracker.close(60) == []
    (parent,), children = runs(uri)
    assert len(children) == 2
    assert [file.path for file in tracking._client(uri).list_artifacts(parent.info.run_id)] == ["table.md"]
    assert (tmp_path / "mlruns" / "digits" / parent.info.run_id / "artifacts" / "table.md").exists()
    assert tracking.resend([records.made(seed=seed) for seed in range(2)], uri, "digits") == 0


def test_a_missing_file_is_reported_and_not_raised(uri, tmp_path):
    tracker = tracking.Tracker(uri, "digits")
    tracker.finished(records.made())
    tracker.artifacts([tmp_path / "nowhere.md"])
    problems = tracker.close(60)
    assert "nowhere.md" in problems[-1]


def test_a_server_that_is_down_costs_little_and_is_reported():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://user:secret@127.0.0.1:{closed.getsockname()[1]}"
    started = time.monotonic()
    tracker = tracking.Tracker(address, "digits")
    for seed in range(3):
        tracker.finished(records.made(seed=seed))
    assert time.monotonic() - started < 0.5
    first, last = tracker.close(20)
    assert time.monotonic() - started < 10
    assert "secret" not in first + last
    assert all(records.made(seed=seed).id in last for seed in range(3))
    assert "harness track" in last


def test_a_server_that_hangs_does_not_hold_up_the_end():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracker = tracking.Tracker(f"http://127.0.0.1:{silent.getsockname()[1]}", "digits")
        tracker.finished(records.made(seed=0))
        tracker.finished(records.made(seed=1))
        started = time.monotonic()
        problems = tracker.close(0.5)
        assert time.monotonic() - started < 2
    assert "no answer within 0.5 s" in problems[0]
    assert all(records.made(seed=seed).id in problems[1] for seed in range(2))


def test_a_failed_resend_says_why_without_credentials():
    with pytest.raises(tracking.TrackingError) as caught:
        tracking.resend([records.made()], "http://user:sec/ret@127.0.0.1:9", "digits")
    assert "sec/ret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://user:p@ss@host:5000/x", "http://…@host:5000/x"),
        ("postgresql://host/db?user=a&password=b", "postgresql://host/db?…"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_credentials_are_left_out_of_what_is_printed(uri, shown):
    assert tracking.public(uri) == shown


def test_the_default_is_a_database_in_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking.default_uri() == f"sqlite:///{tmp_path}/mlflow.db"


def test_nothing_of_mlflow_is_imported_with_the_module():
    code = "import sys, harness.tracking, harness.tables; print({'mlflow', 'torch', 'ray'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.slow
def test_two_processes_may_make_one_database(tmp_path):
    code = """
import sys
from harness import tracking
from tests import records
tracking.resend([records.made(seed=int(sys.argv[2]))], sys.argv[1], "digits")
"""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    started = [subprocess.Popen([sys.executable, "-c", code, uri, str(seed)]) for seed in range(2)]
    assert [process.wait(60) for process in started] == [0, 0]
    parents, children = runs(uri)
    assert (len(parents), len(children)) == (1, 2)


@pytest.mark.slow
def test_a_real_server_takes_everything_and_nothing_is_printed(tmp_path, capfd):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment = {**os.environ, **quiet}
    environment.pop("MLFLOW_TRACKING_URI", None)
    table = tmp_path / "table.md"
    table.write_text("| a |")
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        wait_for(int(port))
        uri = f"http://user:secret@127.0.0.1:{port}"
        record = records.made(history=[records.epoch(number) for number in range(1, 301)])
        assert tracking.resend([record], uri, "digits", [table]) == 1
        assert tracking.resend([record], uri, "digits", [table]) == 0
        (parent,), (child,) = runs(uri)
        client = tracking._client(uri)
        assert len(client.get_metric_history(child.info.run_id, "epoch/lr")) == 300
        assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["table.md"]
    finally:
        server.terminate()
        server.wait(30)
    assert capfd.readouterr().out == ""
