"""What a job ships, and what it knows of itself, without a cluster."""

import json
import os
import signal
import zipfile
from pathlib import Path

import pytest
import typer

from harness import authentication, interrupt, job, parcel, provenance, sealed
from harness.config import Experiment
from harness.experiment_file import ConfigError, checked
from tests import ray_head
from tests.experiments import EXPERIMENT


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A checkout that the harness seems to run from."""
    folder = ray_head.checkout(tmp_path / "checkout")
    monkeypatch.setattr("harness.__file__", str(folder / "harness" / "__init__.py"))
    provenance.commit.cache_clear()
    yield folder
    provenance.commit.cache_clear()


def names(archive: Path) -> list[str]:
    return zipfile.ZipFile(archive).namelist()


@pytest.mark.parametrize("committed", [True, False])
def test_the_code_and_the_file_travel_and_nothing_else(checkout, tmp_path, committed):
    commit = ray_head.commit(checkout) if committed else None
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine")
    found = parcel.gather(file)
    size = parcel.pack(found, tmp_path / "a.zip")
    inside = names(tmp_path / "a.zip")
    assert found.experiment == ".submitted/mine.yaml"
    assert {"harness/cli.py", "methods/dsr.py", "datasets/digits.py", ".submitted/mine.yaml"} <= set(inside)
    assert any(name.startswith("results/published/") for name in inside)
    for name in inside:
        assert zipfile.ZipFile(tmp_path / "a.zip").read(name) != b"must not travel", name
    assert json.loads(zipfile.ZipFile(tmp_path / "a.zip").read(provenance.NOTE)) == {
        "commit": commit, "dirty": False if committed else None,
    }  # fmt: skip
    assert size == (tmp_path / "a.zip").stat().st_size < found.size_bytes
    assert f"{len(found.files)} files, " in found.described()
    parcel.pack(parcel.gather(file), tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_file_of_the_checkout_keeps_its_place_and_one_that_is_left_out_travels_all_the_same(checkout):
    (checkout / "configs").mkdir()
    (checkout / "configs" / "a.yaml").write_text("name: a")
    (checkout / "results" / "a").mkdir()
    (checkout / "results" / "a" / "experiment.yaml").write_text("name: b")
    assert parcel.gather(checkout / "configs" / "a.yaml").experiment == "configs/a.yaml"
    assert parcel.gather(checkout / "results" / "a" / "experiment.yaml").experiment == ".submitted/experiment.yaml"


def test_large_files_stay_and_are_named_and_what_is_excluded_stays(checkout, tmp_path):
    (checkout / "big.txt").write_bytes(bytes(parcel.LARGE_BYTES))
    (checkout / "notes").mkdir()
    (checkout / "notes" / "a.txt").write_text("a")
    file = tmp_path / "a.yaml"
    file.write_text("name: a")
    found = parcel.gather(file, ["notes"])
    assert not {"big.txt", "notes/a.txt"} & set(found.files)
    assert "notes/a.txt" in parcel.gather(file).files
    assert "too large and left out: big.txt" in found.described()


def test_more_than_ray_takes_is_refused_with_the_largest_files(checkout, tmp_path, monkeypatch):
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE

    assert parcel.MOST_BYTES == DASHBOARD_CLIENT_MAX_SIZE
    monkeypatch.setattr(parcel, "MOST_BYTES", 100_000)
    (checkout / "noise.txt").write_bytes(os.urandom(90_000))
    with pytest.raises(ConfigError, match=r"ship .* and Ray takes 100\.0 kB; .*largest: noise\.txt \(90\.0 kB\), "):
        parcel.pack(parcel.gather(checkout / "methods" / "dsr.py"), tmp_path / "a.zip")


def test_without_a_checkout_the_installed_package_travels(checkout, tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    (site / "torch").mkdir(parents=True)
    (site / "torch" / "x.py").write_text("")
    (checkout / "harness").rename(site / "harness")
    (checkout / "methods").rename(site / "harness" / "methods")
    monkeypatch.setattr("harness.__file__", str(site / "harness" / "__init__.py"))
    provenance.commit.cache_clear()
    file = tmp_path / "a.yaml"
    file.write_text("name: a")
    found = set(parcel.gather(file).files)
    assert {"harness/methods/dsr.py", "harness/cli.py"} <= found
    assert not [name for name in found if not name.startswith(("harness/", ".submitted/"))]


def test_what_was_shipped_knows_its_commit(checkout):
    (checkout / provenance.NOTE).write_text('{"commit": "abc", "dirty": true}')
    assert provenance.commit() == ("abc", True)


def experiment(**changes: object) -> Experiment:
    return checked(Experiment, EXPERIMENT | changes, "test")


@pytest.fixture
def in_job(monkeypatch) -> str:
    content = {"metadata": {"job_submission_id": "job-1"}, "runtime_env": {"env_vars": {"A": "b"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(content))
    monkeypatch.delenv(job.RESULTS, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return "job-1"


def test_outside_a_job_nothing_is_moved_or_written(tmp_path):
    assert job.current() is None
    assert job.placed(experiment()) == experiment()
    with job.kept(experiment(results=str(tmp_path))) as keeper:
        assert keeper is None
    assert not list(tmp_path.iterdir())


def test_relative_results_of_a_job_need_a_place_that_outlives_it(in_job, monkeypatch):
    with pytest.raises(ConfigError, match=r"results: 'results' is relative .*--set results=/shared/results.*HARNESS_"):
        job.placed(experiment())
    for place in ("/shared/mine", "s3://bucket/mine"):
        assert job.placed(experiment(results=place)).results == place
    for root in ("/shared", "s3://bucket/x/"):
        monkeypatch.setenv(job.RESULTS, root)
        assert job.placed(experiment()).results == f"{root.rstrip('/')}/results"


def test_a_job_sends_to_mlflow_only_where_a_server_is_named(in_job, monkeypatch, caplog):
    tracked = experiment(results="/shared", tracking={"mlflow": True})
    assert not job.placed(tracked).tracking.mlflow
    assert "no server is named" in caplog.text
    assert job.placed(experiment(results="/s", tracking={"uri": "http://mlflow:5000"})).tracking.mlflow
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert job.placed(tracked).tracking.mlflow


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (typer.Exit(3), 3, "some trials failed; their records say why"),
        (ConfigError("scale: too much"), 2, "scale: too much"),
        (ConnectionError("gone\nfar"), 1, "ConnectionError: gone"),
        (interrupt.Interrupted(signal.SIGINT), 130, "stopped by SIGINT"),
    ],
)
def test_a_job_writes_down_how_it_ends(in_job, tmp_path, error, code, reason):
    ours = experiment(results=str(tmp_path))

    def run() -> None:
        with job.kept(ours):
            assert job.find(str(tmp_path))[0].state == "running"
            raise error

    with pytest.raises(type(error)):
        run()
    (told,) = job.find(str(tmp_path), in_job)
    assert (told.state, told.exit_code, told.reason) == ("ended", code, reason)
    assert told.started <= told.ended


def test_a_terminated_job_says_so_and_counts_its_trials(in_job, tmp_path):
    from tests.records import made

    ours = experiment(results=str(tmp_path))

    def run() -> None:
        with job.kept(ours) as keeper:
            keeper.plan(4, ahead=3)
            keeper.finished(made("bptt"))
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(interrupt.Interrupted):
        run()
    (told,) = job.find(str(tmp_path))
    assert (told.exit_code, told.reason) == (143, "stopped by SIGTERM")
    assert (told.trials, told.done, told.outcomes) == (4, 2, {"before": 1, "done": 1})


def test_status_reads_what_jobs_wrote_without_a_cluster(harness, in_job, tmp_path, monkeypatch):
    with job.kept(experiment(results=str(tmp_path))) as keeper:
        keeper.plan(4, ahead=0)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    code, out, _ = harness("status", "--results", tmp_path)
    assert code == 0
    assert "job-1" in out
    assert "4 of 4 (4 before)" in out
    code, _, err = harness("status", "job-2", "--results", tmp_path)
    assert (code, err) == (2, f"harness: job-2: no status of such a job below {tmp_path}\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["submit", "FILE", "--set", "tracking.uri=http://me:word@host"], "--set tracking.uri: holds a password"),
        (["submit", "FILE", "--env", "NOT_SET_ANYWHERE"], "--env NOT_SET_ANYWHERE: not set here"),
        (["submit", "FILE", "--set", "train.epoch=3"], "train.epoch: unknown key; did you mean 'epochs'?"),
        (["submit", "none.yaml"], "none.yaml: No such file or directory"),
        (["submit", "FILE", "--address", "http://127.0.0.1:1"], "no Ray dashboard answers (Connection refused)"),
        (["submit", "FILE", "--address", "127.0.0.1:what"], "127.0.0.1:what: no Ray dashboard answers"),
        (["status", "--follow"], "--follow: follows one JOB"),
        (["status", "--results", ".", "--address", "http://x"], "--results: read without a cluster"),
        (["stop", "job", "--address", "http://127.0.0.1:1"], "no Ray dashboard answers"),
    ],
)
def test_wrong_requests_are_one_line_and_exit_code_2(harness, tmp_path, arguments, complaint):
    file = tmp_path / "a.yaml"
    file.write_text(json.dumps(EXPERIMENT))
    code, out, err = harness(*(str(file) if each == "FILE" else each for each in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert complaint in err
    assert "word@" not in err


def test_records_show_no_password_of_a_url(monkeypatch):
    monkeypatch.setattr("sys.argv", ["harness", "sweep", "a b.yaml", "--set", "tracking.uri=http://me:word@host"])
    assert provenance.command() == "harness sweep 'a b.yaml' --set tracking.uri=http://***@host"


def test_forwarded_variables_open_with_the_clusters_token_alone(monkeypatch):
    text = sealed.seal({"MLFLOW_TRACKING_PASSWORD": "word"}, "token")
    assert "word" not in text
    monkeypatch.setenv(sealed.VARIABLE, text)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "other")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    with pytest.raises(ConfigError, match="not closed with the token of this node"):
        sealed.unseal()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "token")
    sealed.unseal()
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "word"


def test_a_token_is_made_once_and_only_its_owner_may_read_it(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    authentication.ensure_token()
    file = tmp_path / ".ray" / "auth_token"
    first = authentication.token()
    assert first is not None
    assert len(first) == 64
    assert [path.stat().st_mode & 0o777 for path in (file, file.parent)] == [0o600, 0o700]
    file.chmod(0o644)
    authentication.ensure_token()
    assert (authentication.token(), file.stat().st_mode & 0o777) == (first, 0o600)
    assert [path.name for path in file.parent.iterdir()] == ["auth_token"]
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no such file"):
        authentication.ensure_token()


def test_a_cluster_that_serves_anybody_is_used_only_if_one_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(authentication, "_ask_head", lambda address, token: "open")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ConfigError, match=r"serves anybody, without a token; .* RAY_AUTH_MODE=disabled here too"):
        authentication.agree("head:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    authentication.agree("head:6379")
