"""Every experiment file that we ship: planned without its data, with a comment, and both papers covered."""

from functools import cache
from pathlib import Path

import pytest
import torch

from harness import experiment_file, plan, plugins, prepare, published, stand_in
from harness.config import Experiment, smoke
from harness.contract import DatasetInfo
from harness.plan import Trial

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "configs").glob("*.yaml"))
OURS = {"digits.yaml", "mnist.yaml"}
"""Not a paper's experiment."""


@cache
def read(file: Path) -> tuple[Experiment, DatasetInfo, list[Trial]]:
    experiment = experiment_file.load(file)
    info = prepare.info(experiment.dataset.name, experiment.dataset.options)
    return experiment, info, plan.expand(experiment, info, file=file.name)


def comment(file: Path) -> str:
    lines = file.read_text().splitlines()
    return "\n".join(line for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file_can_be_planned_without_its_data(file, monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    read.cache_clear()
    experiment, _, trials = read(file)
    assert experiment.name == file.stem
    assert trials


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_comment_says_how_to_run_it_and_what_to_expect(file):
    said = comment(file)
    assert f"harness sweep configs/{file.name}" in said
    if file.name not in OURS:
        assert all(f"\n# {part}: " in said for part in ("Data", "Time", "Expected", "Selection", "Departures"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_networks_can_be_built_for_the_dataset(file):
    _, info, trials = read(file)
    for trial in {(trial.method, trial.network.model_dump_json(), trial.label): trial for trial in trials}.values():
        with torch.device("meta"):
            plugins.load("methods", trial.method).build(trial.config(), trial.task(info))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_smoke_keeps_every_label_and_is_small(file, monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    experiment = read(file)[0]
    given, info, sentence = stand_in.of(experiment)
    small = smoke(given, frames=info.frames if info.temporal else None)
    trials = plan.expand(small, info, file=file.name)
    assert {trial.label for trial in trials} == {entry.label or entry.name for entry in experiment.methods}
    assert len(trials) == len(experiment.methods)
    assert all(trial.time_steps <= 4 and trial.train.batch_size <= 8 and trial.train.epochs <= 1 for trial in trials)
    if given.dataset.name == "noise":
        title = prepare.info(experiment.dataset.name, experiment.dataset.options).title
        assert info.title == f"noise in the shape of {title}"
        assert sentence is not None
        assert sentence.startswith(title)


def neuron(trial: Trial) -> str:
    """As papers print it."""
    if trial.method == "ann":
        return "ReLU"
    name = str(trial.settings["neuron"]).upper()
    return f"{name} {trial.settings['leak']}" if trial.method == "ide" and name == "LIF" else name


@pytest.mark.parametrize("paper", ["dsr", "ide"])
def test_every_published_row_of_the_paper_has_an_experiment(paper):
    rows = published.read(ROOT / "results" / "published" / f"{paper}.yaml", unverified=True)
    ours = [
        (info.title, trial) for file in FILES if file.name not in OURS for _, info, ts in [read(file)] for trial in ts
    ]
    missing = [
        row
        for row in rows
        if not any(
            published.is_same_name(row.dataset, title)
            and published.is_same_name(row.network, trial.network.name)
            and published.is_same_method(row, trial.method)
            and (row.neuron, row.time_steps) == (neuron(trial), trial.time_steps)
            and trial.selection in (row.selection, "best_test")
            for title, trial in ours
        )
    ]
    assert rows
    assert not missing


@pytest.mark.parametrize(
    "method", ["STBP", "STBP-tdBN", "TET", "SEW", "PLIF", "OTTT_A", "OTTT_O", "SLTT", "conversion"]
)
def test_every_baseline_has_an_experiment(method):
    labels = {trial.label.casefold() for file in FILES for trial in read(file)[2]}
    assert method.casefold() in labels
