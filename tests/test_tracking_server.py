"""Everything against real servers, with SQLite and with PostgreSQL: a small sweep that was really trained."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness import checkpoint, plan, plugins, publish, sweep, tracking, trial
from harness.config import Experiment
from harness.data import loader, source
from harness.evaluation import in_time
from harness.plan import Trial
from harness.tracking import models, runs, server
from tests import mlflow_server, records
from tests.experiments import EXPERIMENT

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> SimpleNamespace:
    """Records and weights of two seeds of one method, and what a sweep writes beside them."""
    changes = {"methods": [EXPERIMENT["methods"][1]], "results": str(tmp_path_factory.mktemp("results"))}
    experiment = Experiment.model_validate(EXPERIMENT | changes)
    shared = sweep.run_of(experiment)
    trials = plan.expand(experiment, source.of(experiment.dataset).info)
    found = [trial.run(each, shared) for each in trials]
    return SimpleNamespace(experiment=experiment, records=found, files=publish.write(experiment, found))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def served(request, trained, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A server that was sent the sweep, and what that said."""
    folder = tmp_path_factory.mktemp(request.param)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(mlflow_server.postgres()) if request.param == "postgresql" else None
        server = mlflow_server.Server(folder, store)
        stack.callback(server.kill)
        server.start()
        yield SimpleNamespace(uri=server.uri, folder=folder, kind=request.param, sent=sent(server.uri, trained))


def sent(uri: str, trained: SimpleNamespace) -> tracking.Sent:
    uri = uri.replace("//", "//user:hunter2@")
    return tracking.resend(trained.records, uri, "small", trained.files, [trained.experiment.folder])


def best(trained: SimpleNamespace):
    return max(trained.records, key=lambda record: record.validation_accuracy)


def test_a_sweep_is_there_with_curves_vitals_data_and_files(served, trained):
    assert served.sent.changed == 2
    (parent,), children = mlflow_server.runs(served.uri, "small")
    client = server.client(served.uri)
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {file.name for file in trained.files}
    for child in children:
        run = child.info.run_id
        (record,) = [each for each in trained.records if each.id == child.data.tags["harness.trial"]]
        assert mlflow_server.points(served.uri, run, "accuracy_at_t") == list(record.accuracy.items())
        looks = client.get_metric_history(run, "system/process_memory_usage_megabytes")
        assert [look.value for look in looks] == record.system["process_memory_usage_megabytes"]
        assert child.info.start_time <= looks[-1].timestamp <= child.info.end_time + 1000
        assert [each.tags[0].value for each in child.inputs.dataset_inputs] == ["train", "validation", "test"]
        assert [file.path for file in client.list_artifacts(run)] == ["record.json"]


def test_sending_again_changes_nothing_and_registers_nothing(served, trained):
    before = mlflow_server.runs(served.uri, "small")
    assert sent(served.uri, trained) == tracking.Sent(0, [])
    after = mlflow_server.runs(served.uri, "small")
    assert [[r.info.run_id for r in kind] for kind in after] == [[r.info.run_id for r in kind] for kind in before]
    assert len(server.client(served.uri).search_model_versions("name = 'small-digits'")) == 1


def test_a_long_record_goes_in_several_requests(served):
    long = records.full(history=[records.epoch(number) for number in range(1, 301)])
    assert tracking.resend([long], served.uri, "long").changed == 1
    _, (child,) = mlflow_server.runs(served.uri, "long")
    assert len(mlflow_server.points(served.uri, child.info.run_id, "epoch/lr")) == 300


def test_the_best_of_validation_is_registered_with_its_run_and_signature(served, trained):
    (remark,) = served.sent.remarks
    assert remark.startswith("registered models:/small-digits/1, the network of bptt T=2")
    version = server.client(served.uri).get_model_version_by_alias("small-digits", models.ALIAS)
    assert (version.version, version.tags["harness.trial"]) in {("1", best(trained).id), (1, best(trained).id)}
    run = server.client(served.uri).get_run(version.run_id)
    assert run.data.tags["harness.trial"] == best(trained).id


LOADING = """
import json, numpy as np, mlflow
model = mlflow.pyfunc.load_model("models:/small-digits/1")
stored = np.load("stored.npy")
np.save("last.npy", model.predict(stored))
np.save("first.npy", model.predict(stored, params={"time_steps": 1}))
with open("signature.json", "w") as file: json.dump(model.metadata.signature.to_dict(), file)
"""


def test_it_is_loaded_by_name_elsewhere_and_predicts_what_we_do(served, trained, tmp_path, monkeypatch):
    data = loader.open_data(trained.experiment.dataset)
    (stored, _), (fed, _) = next(data._readers["test"].read(np.arange(50), 50)), next(data.batches("test", 50))
    data.close()
    np.save(tmp_path / "stored.npy", stored.numpy())
    if served.kind == "sqlite":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": served.uri}
        command = [sys.executable, "-c", LOADING]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    else:  # here, because another process takes seconds to import all that again
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", served.uri)
        exec(LOADING)
    (entry,) = json.loads(json.loads((tmp_path / "signature.json").read_text())["inputs"])
    assert entry["tensor-spec"] == {"dtype": "uint8", "shape": [-1, 1, 8, 8]}
    ours = _scores(trained, fed)
    for file, scores in (("first.npy", ours[0]), ("last.npy", ours[1])):
        np.testing.assert_allclose(np.load(tmp_path / file), scores.softmax(-1), atol=1e-6, rtol=0)


def _scores(trained: SimpleNamespace, fed: torch.Tensor) -> torch.Tensor:
    """What the method itself predicts from the weights in the results' folder, (T, B, K)."""
    ours = Trial.model_validate(best(trained).trial)
    method, task = plugins.load("methods", ours.method), ours.task(source.of(ours.dataset).info)
    net = method.build(ours.config(), task).eval()
    folder = trained.experiment.folder / "checkpoints" / ours.id
    net.load_state_dict(checkpoint.load_weights(folder / "weights.pt"))
    with torch.no_grad():
        return method.predict(net, in_time(fed, task), ours.config())


def test_a_search_finds_the_trials_and_refuses_a_wrong_filter(served):
    found = runs.find("params.method = 'bptt'", served.uri, experiment="small", best="test_accuracy")
    assert [row["accuracy"] for row in found] == sorted((row["accuracy"] for row in found), reverse=True)
    assert len(found) == 2
    with pytest.raises(server.Refused, match="does not take this filter"):
        runs.find("metrics.test_accuracy >", served.uri)


def test_weights_that_are_elsewhere_are_told_in_one_line(served, trained, tmp_path):
    elsewhere = [record.model_copy(update={"experiment": "elsewhere"}) for record in trained.records]
    sent = tracking.resend(elsewhere, served.uri, "elsewhere", [], [tmp_path])
    assert sent.changed == 2
    assert sent.remarks == [
        f"no network is registered for Digits: the weights of the best, {best(trained).id}, are not here"
    ]


def test_a_better_network_is_another_version_and_the_best(served, trained):
    client = server.client(served.uri)
    better = [
        record.model_copy(update={"validation_accuracy": 100.0, "experiment": "better"})
        if record is not best(trained) else record.model_copy(update={"experiment": "better"})
        for record in trained.records
    ]  # fmt: skip
    folders = [trained.experiment.folder]
    tracking.resend(
        [record.model_copy(update={"experiment": "better"}) for record in trained.records],
        served.uri,
        "better",
        [],
        folders,
    )
    tracking.resend(better, served.uri, "better", [], folders)
    version = client.get_model_version_by_alias("better-digits", models.ALIAS)
    assert str(version.version) == "2"
    assert version.tags["harness.trial"] != best(trained).id


def test_nothing_is_printed_and_no_password_is_stored(served, trained, capfd):
    assert sent(served.uri, trained).changed == 0
    assert "".join(capfd.readouterr()) == ""
    stored = b"".join(file.read_bytes() for file in served.folder.rglob("*") if file.is_file())
    assert b"hunter2" not in stored
