"""Every experiment file that we ship: planned without its data, with a comment, and both papers covered."""

from functools import cache
from pathlib import Path

import pytest
import torch

from harness import experiment_file, plan, plugins, published
from harness.config import Experiment, smoke
from harness.contract import DatasetInfo
from harness.data import prepare, source, stand_in
from harness.plan import Trial

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "configs").glob("*.yaml"))
SAID = ("Data", "Time", "Expected", "Selection", "Departures")
"""What the comment of a paper's experiment has a line for."""
every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


@pytest.fixture(scope="module", autouse=True)
def no_data(tmp_path_factory):
    """Neither raw nor prepared data for the whole module, so that plans can be kept."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HARNESS_DATA", "HARNESS_CACHE"):
            patch.setenv(name, str(tmp_path_factory.mktemp("nothing")))
        yield


@cache
def read(file: Path) -> tuple[Experiment, DatasetInfo, list[Trial]]:
    experiment = experiment_file.load(file)
    info = prepare.info(experiment.dataset.name, experiment.dataset.options)
    return experiment, info, plan.expand(experiment, info, file=file.name)


@every_file
def test_file_can_be_planned_without_its_data(file):
    experiment, _, trials = read(file)
    assert experiment.name == file.stem
    assert trials


@every_file
def test_comment_says_how_to_run_it_and_what_to_expect(file):
    lines = file.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    said = "\n".join(lines[:first])
    assert f"harness sweep configs/{file.name}" in said
    if read(file)[0].evaluation.selection == "best_test":  # as papers do
        assert all(f"\n# {part}: " in said for part in SAID)


def test_every_network_can_be_built_for_its_dataset():
    kinds = {}
    for file in FILES:
        experiment, stored, trials = read(file)
        info = source.seen(stored, experiment.dataset)
        for trial in trials:
            key = (trial.method, trial.network.model_dump_json(), info.shape, info.classes)
            kinds.setdefault(key, (trial, info))
    for trial, info in kinds.values():
        # Without memory for the weights, except where a method computes its constants with torch.
        with torch.device("cpu" if trial.method == "dsr" else "meta"):
            plugins.load("methods", trial.method).build(trial.config(), trial.task(info))


@every_file
def test_smoke_keeps_every_label_and_is_small(file):
    experiment, info, _ = read(file)
    given, facts, sentence = stand_in.replaced(experiment)
    trials = plan.expand(smoke(given), facts, file=file.name)
    assert [trial.label for trial in trials] == [entry.label or entry.name for entry in experiment.methods]
    assert all(trial.time_steps <= 4 and trial.train.batch_size <= 4 and trial.train.epochs <= 1 for trial in trials)
    assert (facts.shape, facts.classes, facts.stored) == (info.shape, info.classes, info.stored)
    if given.dataset.name == "noise":
        assert facts.title == f"noise in the shape of {info.title}"
        assert str(sentence).startswith(info.title)


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
        (read(file)[1].title, trial)
        for file in FILES
        for trial in read(file)[2]
        if trial.method in (paper, "ann") and trial.selection == "best_test" and trial.dataset.validation == 0
    ]
    missing = [
        row
        for row in rows
        if row.time_steps  # a row that does not say its T cannot be run
        and not any(
            published.is_same_name(row.dataset, title)
            and published.is_same_name(row.network, trial.network.name)
            and published.is_same_method(row, trial.method)
            and (row.neuron, row.time_steps) == (neuron(trial), trial.time_steps)
            for title, trial in ours
        )
    ]
    assert rows
    assert not missing


def test_every_baseline_has_an_experiment():
    baselines = {"stbp", "stbp-tdbn", "tet", "sew", "plif", "ottt_a", "ottt_o", "sltt", "ann", "conversion-qcfs"}
    assert baselines <= {trial.label for file in FILES for trial in read(file)[2]}
