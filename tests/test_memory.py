"""Memory that does not suffice, with real errors: smaller parts where they help, else a record that says what does."""

import re

import pytest
import torch

from harness import memory, plan, plugins, trial
from harness.config import Evaluation, Experiment
from harness.data import prepare
from harness.record import Record
from tests import crew

SETTINGS = {"epochs": 2, "batch_size": 64, "limit_batches": 4}


@pytest.fixture(autouse=True, scope="module")
def _digits():
    prepare.prepare("digits")


def planned(*, workers: int = 1, hidden: int = 8, batch_norm: bool = False, **recipe) -> plan.Trial:
    content = {
        "name": "memory", "dataset": "digits", "methods": ["ann"], "scale": {"workers": workers},
        "network": {"name": "mlp", "hidden": [hidden], "batch_norm": batch_norm}, "train": SETTINGS | recipe,
    }  # fmt: skip
    return plan.expand(Experiment.model_validate(content), prepare.info("digits"))[0]


def run(planned: plan.Trial, folder, **which) -> Record | None:
    shared = trial.Run(experiment="memory", folder=str(folder), evaluation=Evaluation(latency_repeats=0))
    return trial.run(planned, shared, **which)


def refuse(patch, limit: int, *, steps: list[int] | None = None) -> list[int]:
    """From now on a step of `ann` with more samples than `limit` runs out of memory; returns the sizes tried."""
    ann, tried = plugins.load("methods", "ann"), []
    step = ann.train_step

    def train_step(net, x, y, config, update):
        tried.append(len(y))
        if len(y) > limit and (steps is None or len(tried) in steps):
            torch.empty(2**50)  # a real error of torch's allocator, on any machine
        return step(net, x, y, config, update)

    patch.setattr(ann, "train_step", train_step)
    return tried


def losses(result: Record) -> list[float]:
    return [epoch.train_loss for epoch in result.history]


def test_what_torch_and_python_say_is_known():
    for attempt in (lambda: torch.empty(2**50), lambda: bytearray(2**60)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            attempt()
        assert memory.is_lacking(caught.value)
    assert memory.is_lacking(torch.OutOfMemoryError("CUDA out of memory"))
    assert not memory.is_lacking(RuntimeError("shapes differ"))
    assert [memory.more_parts(parts, 48) for parts in (1, 2, 4, 8, 12, 24, 48)] == [2, 4, 8, 16, 24, 48, None]


@pytest.mark.parametrize("micro_batches", [1, "auto"])
def test_network_that_can_never_fit_is_recorded_with_the_peak_and_the_advice(micro_batches, tmp_path):
    result = run(planned(hidden=10**12, micro_batches=micro_batches), tmp_path)
    assert result.outcome == "failed"
    assert result.reason.startswith("out of memory [enforce fail")
    assert "you tried to allocate" in result.reason
    assert "train.micro_batches" in result.reason
    assert result.cost.peak_memory_bytes is None or result.cost.peak_memory_bytes > 2**20
    assert "\n" not in result.reason


def test_step_that_does_not_fit_is_recorded_and_names_its_samples(tmp_path, monkeypatch):
    tried = refuse(monkeypatch, 16)
    result = run(planned(micro_batches=2), tmp_path)
    assert tried == [32]
    assert result.outcome == "failed"
    assert result.reason.startswith("out of memory in a training step of 32 samples: ")


def test_auto_takes_as_many_parts_as_it_needs_and_learns_the_same(tmp_path, monkeypatch):
    whole = run(planned(), tmp_path / "whole")
    assert whole.micro_batches is None
    assert "micro_batches" not in (tmp_path / "whole" / f"{whole.id}.json").read_text()
    tried = refuse(monkeypatch, 16)
    result = run(planned(micro_batches="auto"), tmp_path)
    assert tried[:3] == [64, 32, 16]
    assert set(tried[3:]) == {16}
    assert (result.outcome, result.micro_batches) == ("done", 4)
    assert losses(result) == pytest.approx(losses(whole), rel=1e-5)


def test_auto_goes_on_from_the_last_checkpoint(tmp_path, monkeypatch):
    tried = refuse(monkeypatch, 32, steps=[7])  # the third step of the second epoch
    result = run(planned(micro_batches="auto"), tmp_path)
    assert tried == [64] * 7 + [32] * 8
    assert (result.micro_batches, result.restarts) == (2, 1)


def test_auto_gives_up_at_one_sample_a_part(tmp_path, monkeypatch):
    tried = refuse(monkeypatch, 0)
    result = run(planned(micro_batches="auto"), tmp_path)
    assert tried == [64, 32, 16, 8, 4, 2, 1]
    assert result.outcome == "failed"


def test_parts_stay_after_a_restart(tmp_path, monkeypatch):
    first = planned(micro_batches="auto")
    with monkeypatch.context() as patch:
        refuse(patch, 32)
        with pytest.raises(KeyboardInterrupt):
            run(first, tmp_path, report=lambda metrics: (_ for _ in ()).throw(KeyboardInterrupt))
    tried = refuse(monkeypatch, 64)
    assert run(first, tmp_path).micro_batches == 2
    assert set(tried) == {32}


def two_workers(rank: int, world: int, folder: str, micro_batches: int | str, limit: int, who: int) -> tuple:
    with pytest.MonkeyPatch.context() as patch:
        tried = refuse(patch, limit if rank == who else 1000)
        result = run(planned(workers=2, micro_batches=micro_batches), folder, rank=rank, world=world)
        return tried, None if result is None else result.model_dump()


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_all_workers_take_more_parts_when_one_of_them_runs_out_of_memory(who, tmp_path):
    whole = run(planned(), tmp_path / "whole")
    (first, result), (second, _) = crew.run(two_workers, 2, str(tmp_path), "auto", 8, who)
    assert list(dict.fromkeys(first)) == list(dict.fromkeys(second)) == [32, 16, 8]
    assert result["micro_batches"] == 4
    assert [epoch["train_loss"] for epoch in result["history"]] == pytest.approx(losses(whole), rel=1e-5)


@pytest.mark.slow
def test_first_worker_records_that_another_ran_out_of_memory(tmp_path):
    (_, result), (_, nothing) = crew.run(two_workers, 2, str(tmp_path), 1, 8, 1)
    assert nothing is None
    assert result["outcome"] == "failed"
    assert re.match(r"out of memory in a training step of 32 samples: .*train\.micro_batches", result["reason"])
