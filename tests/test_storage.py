"""Results in an object store: a real S3 server on loopback, real processes, and what is said when there is none."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import backlog, experiment_file, plan, publish, record, search, storage, sweep
from harness.data import prepare
from tests import faults
from tests.experiments import EXPERIMENT
from tests.records import made
from tests.test_sweep import learned

SECRET = "a-secret-that-nobody-may-see"


class Store:
    """An S3 server of this test run, and how many requests it has answered."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        self.environment = {
            "AWS_ENDPOINT_URL": "http://{}:{}".format(*self.server.get_host_and_port()),
            "AWS_ACCESS_KEY_ID": "test-access", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    store = Store()
    before = dict(os.environ)
    os.environ.update(store.environment)
    import boto3

    boto3.client("s3").create_bucket(Bucket="results")
    yield store
    store.server.stop()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def requests(monkeypatch) -> list[str]:
    """The S3 operations that this process asks for."""
    import s3fs

    asked: list[str] = []
    original = s3fs.S3FileSystem._call_s3

    async def counted(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        asked.append(method)
        return await original(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    return asked


def test_an_objects_place_is_a_path_like_any_other(store):
    place = storage.at("s3://results/paths/digits")
    assert str(place / "a.json") == "s3://results/paths/digits/a.json"
    assert storage.names(place) == set()
    storage.make_folder(place)
    storage.write_atomic(place / "a.json", "one")
    storage.write_atomic(place / "deeper" / "b.json", b"two")
    assert storage.names(place) == {"a.json", "deeper"}
    assert storage.files(place, ".json") == [place / "a.json", place / "deeper" / "b.json"]
    assert list(storage.contents(storage.files(place, ".json"))) == [b"one", b"two"]
    storage.write_atomic(place / "a.json", "new")
    assert (place / "a.json").read_text() == "new"
    with storage.on_this_machine(place / "a.json") as file:
        assert (file.name, file.read_text()) == ("a.json", "new")
    assert not file.exists()


def test_local_folders_answer_the_same_questions(tmp_path):
    assert storage.names(tmp_path / "nowhere") == set()
    (tmp_path / "deeper").mkdir()
    for name in ("b.json", "deeper/a.json", "table.md"):
        (tmp_path / name).write_text(name)
    assert storage.names(tmp_path) == {"b.json", "deeper", "table.md"}
    assert storage.files(tmp_path, ".json") == [tmp_path / "b.json", tmp_path / "deeper" / "a.json"]


@pytest.mark.parametrize("place", ["s3://results/many", "local"])
def test_many_records_cost_one_listing_and_one_read_each(store, requests, tmp_path, place):
    folder = storage.at(place if "://" in place else str(tmp_path))
    written = [made(seed=seed) for seed in range(30)]
    for result in written:
        record.write(result, folder)
    requests.clear()
    ids = [result.id for result in written] + ["0" * 12] * 1000
    assert set(record.of(ids, folder)) == {result.id for result in written}
    assert len(list(record.read_all([folder]))) == 30
    assert len(requests) <= 2 * (30 + 3) if "://" in place else not requests


def test_what_is_due_is_found_by_one_listing_however_many_trials_there_are(store, requests, tmp_path):
    file = written(tmp_path, "s3://results/due", seeds=list(range(40)))
    experiment, trials = planned(file)
    record.write(made().model_copy(update={"id": trials[0].id}), experiment.folder)
    requests.clear()
    assert len(backlog.due(trials, experiment.folder)) == 79
    assert len(requests) <= 3


def test_studies_read_the_records_once_for_all_of_them(store, requests, tmp_path):
    space = {"search": "optuna", "trials": 2, "space": {"train.lr": {"low": 0.01, "high": 0.5}}}
    experiment, bases = planned(written(tmp_path, "s3://results/studies", sweep=space, seeds=list(range(10))))
    for base in bases:
        result = made().model_copy(update={"id": base.id, "trial": base.model_dump(mode="json")})
        record.write(result, experiment.folder)
    requests.clear()
    assert [len(found) for found in search.all_tried(experiment, bases).values()] == [1] * 20
    assert sweep.ahead(experiment, bases) == [2] * 20
    assert len(requests) <= 2 * (20 + 3)


def test_a_bucket_of_a_wrong_name_is_not_made_and_said_in_one_line(store, tmp_path, harness):
    for place in ("s3://reslts/x", "s3://results"):
        code, _, errors = harness("validate", written(tmp_path, place))
        assert (code, errors.count("\n")) == ((2, 1) if "reslts" in place else (0, 0)), errors
    code, _, errors = harness("sweep", written(tmp_path, "s3://reslts/x"))
    assert code == 2
    assert (
        "results: s3://reslts/x: The specified bucket does not exist; create the bucket or correct its name" in errors
    )
    assert harness("table", "s3://reslts/x")[0] == 2
    assert "no such file or folder" in harness("table", "s3://results/nothing/here")[2]


@pytest.mark.parametrize(
    ("changed", "place", "code", "told"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "s3://results/x", 1, "check AWS_ENDPOINT_URL, then repeat"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "s3://results/x", 1, "set AWS_ACCESS_KEY_ID and"),
        ({}, f"s3://key:{SECRET}@results/x", 2, "leave credentials out of the URL"),
        ({}, "ftp://results/x", 2, "'ftp://' is not read; use a folder, or s3:// or gs://"),
        ({}, "s3://", 2, r"which bucket?"),
    ],
)
def test_what_is_wrong_with_a_place_is_said_in_one_line_without_credentials(store, changed, place, code, told):
    """In a process of its own: the packages keep connections and credentials for the length of one."""
    environment = {key: value for key, value in (os.environ | changed).items() if value is not None}
    command = [sys.executable, "-m", "harness", "table", place]
    result = subprocess.run(command, capture_output=True, text=True, env=environment | {"AWS_MAX_ATTEMPTS": "1"})
    assert result.returncode == code, result.stderr
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert SECRET not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("place", "package", "extra"), [("s3://a-bucket/x", "s3fs", "s3"), ("gs://a-bucket/x", "gcsfs", "gs")]
)
def test_a_missing_package_is_named_with_the_extra_that_installs_it(harness, monkeypatch, place, package, extra):

    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, extra, raising=False)
    code, _, errors = harness("table", place)
    assert code == 2
    assert errors == f"harness: {place}: needs the package {package}: pip install 'snn-harness[{extra}]'\n"


def test_google_places_have_the_same_paths():
    place = storage.at("gs://a-bucket/results") / "digits"
    assert str(place / "a.json") == "gs://a-bucket/results/digits/a.json"


def written(folder: Path, results: str, **changes: Any) -> Path:
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(EXPERIMENT | {"results": results} | changes))
    return file


def planned(file: Path) -> tuple[Any, list[plan.Trial]]:
    experiment = experiment_file.load(file)
    return experiment, plan.expand(experiment, prepare.info("digits"), file=str(file))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_sweep_on_an_object_store_is_killed_goes_on_and_leaves_what_a_local_one_leaves(store, tmp_path, harness):
    prepare.prepare("digits")
    stages = {
        "methods": ["ann", {"name": "bptt", "start": "ann", "train": {"epochs": 1}}], "seeds": 0,
        "train": {"epochs": 20, "batch_size": 64},
    }  # fmt: skip
    file = written(tmp_path, "s3://results/swept", **stages)
    experiment, trials = planned(file)
    command = [sys.executable, "-m", "harness", "sweep", str(file)]
    driver = faults.Driver(command, {})
    with faults.ended(driver):
        faults.wait_for(lambda: storage.files(experiment.folder, "last.pt"))
    assert not record.of([trial.id for trial in trials], experiment.folder)
    second = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert second.returncode == 0, second.stderr
    assert SECRET not in second.stdout + second.stderr
    assert "s3://results/swept/small/table.md" in second.stderr
    found = record.of([trial.id for trial in trials], experiment.folder)
    assert sorted(result.restarts for result in found.values()) == [0, 1]

    local = experiment.model_copy(update={"results": str(tmp_path / "local")})
    for trial in trials:
        assert learned(found[trial.id]) == learned(sweep.run_one(local, trial, lambda metrics: None))
    left = {str(file.relative_to(tmp_path / "local")) for file in (tmp_path / "local").rglob("*.*") if file.is_file()}
    # Neither method has a theory to draw.
    published = {f"small/{name}" for name in publish.FILES if name != "convergence.svg"}
    root = storage.at("s3://results/swept")
    there = {str(file).removeprefix(f"{root}/") for file in storage.files(root, "")}
    assert there == left | published

    code, shown, errors = harness("table", root, "--format", "json")
    assert code == 0, errors
    assert json.loads(shown)
    code, shown, errors = harness(
        "evaluate", record.path(experiment.folder, trials[1].id), "--time-steps", "2", "--json"
    )
    assert code == 0, errors
    assert json.loads(shown)["accuracy"]["2"] == pytest.approx(found[trials[1].id].accuracy[2])
    code, _, errors = harness("track", root, "--uri", f"sqlite:///{tmp_path}/mlflow.db")
    assert code == 0, errors
    code, shown, _ = harness("validate", file, "--json")
    assert {row["state"] for row in json.loads(shown)["plan"]["trials"]} == {"done"}
