"""From what trials took to what others will take: the rules of scaling, on made-up trials whose truth is known."""

import pytest

from harness import forecast, timing
from harness.config import Experiment
from harness.forecast import Overhead
from harness.record import Epoch, Record
from harness.timing import Expected, Span
from tests.records import made
from tests.test_plan import expand

SIZES = {"train": 1000, "validation": 100, "test": 200}
CPU = "CPU Test CPU"


def took(
    time_steps: int, *, per_sample: float = 0.001, judged: float = 0.0001, start: float = 1.0, epochs: int = 3,
    method: str = "dsr", batch_size: int = 64, cold: float = 0.0, seed: int = 0, **fields: object,
) -> Record:  # fmt: skip
    """A record of a trial whose seconds are exactly known."""
    samples = SIZES["train"] // batch_size * batch_size
    history = [
        Epoch(epoch=number, train_loss=1, train_accuracy=50, lr=0.1, seconds=per_sample * samples,
              evaluation_seconds=judged * SIZES["validation"])
        for number in range(epochs)
    ]  # fmt: skip
    wall = start + cold + epochs * (per_sample * samples + judged * SIZES["validation"]) + judged * SIZES["test"]
    return made(
        method, time_steps=time_steps, train={"epochs": epochs, "batch_size": batch_size}, history=history, seed=seed,
        wall_seconds=wall, data={"title": "Digits", "sizes": SIZES}, test_samples=SIZES["test"], **fields,
    )  # fmt: skip


def asked(records: list[Record], like: Record, machine: str = CPU, sizes: dict[str, int] = SIZES) -> Expected | str:
    return timing.expected(like.trial, sizes, machine, timing.measured(records))


def test_the_same_trial_takes_what_it_took():
    record = took(4)
    told = asked([record], took(4, seed=1))
    assert isinstance(told, Expected)
    assert told.total.mid == pytest.approx(record.wall_seconds)
    assert told.source == "1 record"


def test_epochs_and_data_size_scale_and_the_start_does_not():
    told = asked([took(4)], took(4, epochs=30), sizes={key: 10 * value for key, value in SIZES.items()})
    assert isinstance(told, Expected)
    batches = 10 * SIZES["train"] // 64 * 64
    assert told.total.mid == pytest.approx(1.0 + 30 * (0.001 * batches + 0.0001 * 1000) + 0.0001 * 2000)


def test_other_batch_sizes_keep_a_samples_seconds_and_say_so():
    told = asked([took(4)], took(4, batch_size=250))
    assert isinstance(told, Expected)
    assert told.epoch.mid == pytest.approx(1.0)
    assert "measured with other batch sizes (64)" in told.source


def test_between_measured_time_steps_seconds_are_a_line():
    """Truth: 1 ms + 0.5 ms x T."""
    told = asked([took(t, per_sample=0.001 + 0.0005 * t) for t in (2, 8)], took(32))
    assert isinstance(told, Expected)
    assert told.epoch.mid == pytest.approx(0.017 * 960)
    assert "a + bT from T=2, 8" in told.source


def test_a_line_never_predicts_less_than_nothing():
    told = asked([took(t, per_sample=0.001 * t * t) for t in (4, 8)], took(1))
    assert isinstance(told, Expected)
    assert told.epoch.low > 0


def test_from_one_time_step_seconds_are_proportional_between_honest_bounds():
    told = asked([took(4)], took(8))
    assert isinstance(told, Expected)
    assert (told.epoch.low, told.epoch.mid, told.epoch.high) == pytest.approx((0.96, 1.92, 1.92))
    assert "proportional to T" in told.source


def test_several_seeds_give_their_range():
    told = asked([took(4, per_sample=s, seed=n) for n, s in enumerate((0.001, 0.002, 0.003))], took(4, seed=9))
    assert isinstance(told, Expected)
    assert (told.epoch.low, told.epoch.mid, told.epoch.high) == pytest.approx((0.96, 1.92, 2.88))


def test_a_fresh_process_is_told_from_what_every_trial_pays():
    records = [took(4, cold=7.0), *(took(4, seed=seed) for seed in range(1, 6))]
    found = timing.measured(records)
    assert [m.is_cold for m in found] == [True, *[False] * 5]
    assert timing.cold_seconds(found) == pytest.approx(7.0)
    told = asked(records, took(4, seed=9))
    assert isinstance(told, Expected)
    assert told.total.high == pytest.approx(records[1].wall_seconds)


def test_what_was_not_measured_there_is_not_guessed():
    assert asked([took(4)], took(4, method="ide")) == "nothing like it was measured on CPU Test CPU"
    assert asked([took(4)], took(4), machine="GPU NVIDIA H100") == "nothing like it was measured on GPU NVIDIA H100"
    assert asked([took(4, outcome="diverged"), took(4, restarts=1)], took(4)).startswith("nothing like it")  # type: ignore[union-attr]
    told = asked([took(4)], took(4, batch_size=2000))
    assert told == "a batch of 2000 samples is more than the 1000 that there are"


def test_other_settings_of_a_method_count_where_there_is_nothing_nearer():
    told = asked([took(4)], took(4).model_copy(update={"trial": took(4).trial | {"settings": {"v_threshold": 9.0}}}))
    assert isinstance(told, Expected)
    assert "with other settings" in told.source


def test_more_workers_than_measured_are_said_to_share_perfectly():
    two = took(4).model_copy(update={"trial": took(4).trial | {"workers": 2}})
    told = asked([took(4)], two)
    assert isinstance(told, Expected)
    assert told.epoch.mid == pytest.approx(0.48)
    assert "share the work perfectly" in told.source


def seconds(*lengths: float) -> list[float]:
    return list(lengths)


def test_makespan_is_between_the_bound_and_twice_it():
    lengths = seconds(9, 1, 1, 1, 1, 1, 1, 5)
    assert forecast.makespan(lengths, 1) == sum(lengths)
    assert forecast.makespan(lengths, 100) == 9
    assert forecast.bound(lengths, 2) <= forecast.makespan(lengths, 2) < 2 * forecast.bound(lengths, 2)
    assert forecast.makespan(sorted(lengths, reverse=True), 2) == forecast.bound(lengths, 2) == 10


SECOND = Expected(Span(1, 2, 4), Span(0, 0, 0), "test")


def planned(**changes: object) -> tuple[Experiment, list]:
    from tests.test_plan import experiment

    return experiment(**changes), expand(**changes)


def test_stages_lengthen_the_critical_path():
    started = {"methods": ["ann", {"name": "bptt", "start": "ann"}], "time_steps": [2], "seeds": [0]}
    found = forecast.of(*planned(**started), lambda trial: SECOND, 8, Overhead(10, 0, 3))
    assert (found.wall.low, found.wall.mid, found.wall.high) == (15, 17, 21)
    fresh = {**started, "methods": ["ann", "bptt"]}
    assert forecast.of(*planned(**fresh), lambda trial: SECOND, 8, Overhead(10, 0, 3)).wall.mid == 15


def test_trials_that_cannot_be_forecast_are_named_and_not_counted():
    experiment, trials = planned(methods=["ann", "bptt"], time_steps=[2], seeds=[0])
    found = forecast.of(experiment, trials, lambda t: SECOND if t.label == "ann" else "no idea", 1, Overhead())
    assert set(found.unknown.values()) == {"no idea"}
    assert found.wall.mid == 2
    assert "starting Ray" in found.notes[0]


def test_asha_gives_a_lower_end_and_keeps_the_upper_one():
    search = {
        "search": "random",
        "trials": 9,
        "space": {"train.lr": {"low": 0.1, "high": 1}},
        "asha": {"grace_epochs": 1},
    }
    experiment, trials = planned(methods=["ann"], time_steps=[2], seeds=[0], sweep=search, train={"epochs": 9})
    # 9 run epoch 1, 3 run two more, 1 runs the other six: 21 of 81.
    assert forecast.stopped_early(experiment) == pytest.approx(21 / 81)
    found = forecast.of(experiment, trials, lambda trial: SECOND, 1, Overhead())
    assert (found.wall.low, found.wall.high) == pytest.approx((9 * 21 / 81, 36))


def test_longest_trials_come_first_and_keep_their_identity():
    trials = expand(methods=["bptt"], time_steps=[2, 8, 4], seeds=[0, 1])
    ordered = forecast.longest_first(trials)
    assert [trial.time_steps for trial in ordered] == [8, 8, 4, 4, 2, 2]
    assert {trial.id for trial in ordered} == {trial.id for trial in trials}


def test_cost_needs_a_price_for_every_type_of_node():
    assert forecast.cost(Span(1, 2, 3), {"head": 1, "gpu": 2}, {"head": 1.0, "gpu": 10.0}) == Span(21, 42, 63)
    assert "no price was given for gpu" in str(forecast.cost(Span(1, 2, 3), {"gpu": 2}, {"head": 1.0}))
