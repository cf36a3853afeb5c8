import json
import socket
import subprocess
import sys
import time

import pytest

from harness import record, tracking
from harness.tracking import measures, server
from tests import records
from tests.mlflow_server import points, runs


def test_a_sweep_is_one_parent_with_one_child_a_trial(mlflow_uri):
    tracking.resend([records.made(seed=seed) for seed in range(3)], mlflow_uri, "digits")
    (parent,), children = runs(mlflow_uri)
    assert len(children) == 3
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert parent.info.status == "FINISHED"


def test_sending_again_changes_nothing(mlflow_uri):
    found = [records.made(seed=seed) for seed in range(2)]
    assert tracking.resend(found, mlflow_uri, "digits").changed == 2
    before = runs(mlflow_uri)
    assert tracking.resend(found, mlflow_uri, "digits").changed == 0
    assert [[r.info.run_id for r in kind] for kind in runs(mlflow_uri)] == [
        [r.info.run_id for r in kind] for kind in before
    ]


def test_a_changed_record_replaces_its_run(mlflow_uri):
    tracking.resend([records.broken("failed")], mlflow_uri, "digits")
    tracking.resend([records.made()], mlflow_uri, "digits")
    _, (child,) = runs(mlflow_uri)
    assert (child.info.status, child.data.tags["outcome"]) == ("FINISHED", "done")


def test_a_run_that_was_sent_by_half_is_sent_whole(mlflow_uri):
    tracking.resend([records.made()], mlflow_uri, "digits")
    _, (child,) = runs(mlflow_uri)
    server.client(mlflow_uri).delete_tag(child.info.run_id, "harness.digest")
    assert tracking.resend([records.made()], mlflow_uri, "digits").changed == 1
    assert len(runs(mlflow_uri)[1]) == 1


def test_another_commit_is_another_sweep(mlflow_uri):
    tracking.resend([records.made(), records.made(commit="fedcba9876543210")], mlflow_uri, "digits")
    parents, children = runs(mlflow_uri)
    assert (len(parents), len(children)) == (2, 2)


def test_metrics_stand_at_their_epoch_and_at_their_time_step(mlflow_uri):
    tracking.resend([records.full()], mlflow_uri, "digits")
    _, (child,) = runs(mlflow_uri)
    run = child.info.run_id
    assert points(mlflow_uri, run, "epoch/train_loss") == [(1, 1.0), (2, 0.5)]
    assert points(mlflow_uri, run, "accuracy_at_t") == [(1, 75.0), (2, 80.0), (3, 85.0), (4, 90.0)]
    assert points(mlflow_uri, run, "latency/batch 32/median_ms") == [(1, 1 / 32), (4, 4 / 32)]
    assert child.data.metrics["cost/Effective_MACs"] == 20.0
    assert set(child.data.metrics) == {point.name for point in measures.metrics(records.full())}


def test_what_the_machine_did_stands_at_the_time_it_did_it(mlflow_uri):
    tracking.resend([records.full()], mlflow_uri, "digits")
    _, (child,) = runs(mlflow_uri)
    history = server.client(mlflow_uri).get_metric_history(child.info.run_id, "system/cpu_utilization_percentage")
    assert [(each.step, each.value, each.timestamp - child.info.start_time) for each in history] == [(0, 50.0, 2000)]


def test_a_run_has_its_record_as_a_file(mlflow_uri, tmp_path):
    tracking.resend([records.full()], mlflow_uri, "digits")
    _, (child,) = runs(mlflow_uri)
    file = tmp_path / "mlruns" / "digits" / child.info.run_id / "artifacts" / "record.json"
    assert record.read(file).model_dump_json() == records.full().model_dump_json()


def test_a_run_names_its_data_by_part_fingerprint_and_size(mlflow_uri):
    other = records.full(dataset={"validation": 0.2}, data=records.full().data)
    tracking.resend([records.full(dataset={"validation": 0.1}), other], mlflow_uri, "digits")
    inputs = [child.inputs.dataset_inputs for child in runs(mlflow_uri)[1]]
    found = [{each.dataset.name: each for each in each_run} for each_run in inputs]
    assert [[tag.value for tag in each.tags] for each in found[0].values()] == [["train"], ["validation"], ["test"]]
    profile = json.loads(found[0]["digits/train"].dataset.profile)
    assert (profile["num_rows"], profile["fingerprint"]) == (90, "sha256:" + "ab" * 32)
    assert found[0]["digits/test"].dataset.digest == "ab" * 18
    assert found[0]["digits/test"].dataset.digest == found[1]["digits/test"].dataset.digest
    assert found[0]["digits/train"].dataset.digest != found[1]["digits/train"].dataset.digest


def test_a_store_that_takes_no_files_costs_the_files_alone(mlflow_uri, tmp_path):
    (tmp_path / "mlruns").write_text("no folder")
    sent = tracking.resend([records.made(seed=seed) for seed in range(2)], mlflow_uri, "digits")
    assert sent.changed == 2
    assert "did not take the records' files" in sent.remarks[0]
    assert len(sent.remarks) == 1
    assert len(runs(mlflow_uri)[1]) == 2
    (tmp_path / "mlruns").unlink()
    assert tracking.resend([records.made(seed=0)], mlflow_uri, "digits").changed == 1


def test_the_trial_is_the_run_s_parameters(mlflow_uri):
    tracking.resend([records.made(settings={"note": "x" * 9000})], mlflow_uri, "digits")
    _, (child,) = runs(mlflow_uri)
    assert child.data.params["settings.v_threshold"] == "1.0"
    assert child.data.params["network.name"] == "mlp"
    assert child.data.params["settings.note"].endswith("… (cut off)")


def test_a_run_bears_the_trial_s_time_commit_and_outcome(mlflow_uri):
    tracking.resend([records.broken("diverged", "loss is NaN", dirty=True)], mlflow_uri, "digits")
    _, (child,) = runs(mlflow_uri)
    assert child.info.status == "FAILED"
    assert child.info.end_time - child.info.start_time == 12500
    tags = child.data.tags
    assert (tags["outcome"], tags["reason"], tags["dirty"]) == ("diverged", "loss is NaN", "true")
    assert tags["commit"] == "0123456789abcdef"


def test_long_histories_go_in_several_requests(mlflow_uri):
    record = records.made(history=[records.epoch(number) for number in range(1, 301)])
    tracking.resend([record], mlflow_uri, "digits")
    _, (child,) = runs(mlflow_uri)
    assert len(server.client(mlflow_uri).get_metric_history(child.info.run_id, "epoch/lr")) == 300


def test_names_that_mlflow_refuses_are_mended(mlflow_uri):
    epoch = records.epoch(1).model_copy(update={"extras": {"residual |f(z) - z|": 0.1}})
    assert tracking.resend([records.made(history=[epoch])], mlflow_uri, "digits").changed == 1


def test_a_tracker_sends_what_a_resend_would(mlflow_uri, tmp_path):
    table = tmp_path / "table.md"
    table.write_text("| a |")
    found = [records.made(seed=seed) for seed in range(2)]
    tracker = tracking.Tracker(mlflow_uri, "digits")
    tracker.finished(found[0])
    tracker.ended(found, tmp_path, [table])
    assert tracker.close(60) == []
    assert "no network is registered for Digits" in tracker.remarks[0]
    (parent,), children = runs(mlflow_uri)
    assert len(children) == 2
    assert [file.path for file in server.client(mlflow_uri).list_artifacts(parent.info.run_id)] == ["table.md"]
    assert (tmp_path / "mlruns" / "digits" / parent.info.run_id / "artifacts" / "table.md").exists()
    assert tracking.resend(found, mlflow_uri, "digits").changed == 0


def test_a_missing_file_is_reported_and_not_raised(mlflow_uri, tmp_path):
    tracker = tracking.Tracker(mlflow_uri, "digits")
    tracker.ended([records.made()], tmp_path, [tmp_path / "nowhere.md"])
    problems = tracker.close(60)
    assert "nowhere.md" in problems[-1]
    assert runs(mlflow_uri)[0][0].info.status == "FINISHED"


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
    ("address", "shown"),
    [
        ("http://user:p@ss@host:5000/x", "http://…@host:5000/x"),
        ("postgresql://host/db?user=a&password=b", "postgresql://host/db?…"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_credentials_are_left_out_of_what_is_printed(address, shown):
    assert tracking.public(address) == shown


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
