import random

import pytest

from harness import cells, select
from harness.cell import Failure, Statistic
from harness.record import Cost
from tests import records


def only(found):
    (cell,) = cells.of(found)
    return cell


def test_seeds_of_one_configuration_make_one_cell():
    cell = only(records.made(seed=seed, accuracy=accuracy) for seed, accuracy in enumerate((90.0, 91.0, 92.0)))
    assert cell.accuracy == Statistic(mean=91.0, std=1.0, n=3)
    assert cell.seeds == (0, 1, 2)


def test_one_seed_has_no_deviation():
    assert only([records.made(accuracy=90.0)]).accuracy == Statistic(mean=90.0, std=None, n=1)


@pytest.mark.parametrize(
    "other",
    [
        {"settings": {"v_threshold": 0.5}},
        {"train": {"lr": 0.2}},
        {"time_steps": 8},
        {"label": "another"},
        {"network": {"name": "vgg11"}},
        {"dataset": {"split_seed": 1}},
        {"selection": "best_test"},
    ],
)
def test_anything_but_the_seed_makes_another_cell(other):
    assert len(cells.of([records.made(), records.made(seed=1, **other)])) == 2


def test_the_loader_makes_no_other_cell():
    found = [records.made(seed=seed, dataset={"loader": loader}) for seed, loader in enumerate(("memory", "ffcv"))]
    assert only(found).accuracy.n == 2


def started(seed: int, **start) -> records.Record:
    return records.made(seed=seed, start=records.made("ann", seed=seed, time_steps=1, **start))


def test_seeds_that_start_from_their_own_seed_make_one_cell():
    cell = only([started(0), started(1)])
    assert cell.accuracy.n == 2
    assert cell.configuration["start"].startswith("ann T=1 (")
    assert not any(key.startswith("start.") for key in cell.configuration)


@pytest.mark.parametrize("start", [{"train": {"lr": 0.2}}, {"settings": {"v_threshold": 0.5}}])
def test_another_start_makes_another_cell_and_is_shown(start):
    rows = cells.of([started(0), started(1, **start)])
    assert len(rows) == 2
    assert select.varying(rows) == ["start"]
    assert len(cells.of([started(0), records.made(seed=1)])) == 2


def test_start_of_the_same_T_is_not_shown_as_a_choice():
    rows = cells.of([started(0), records.made(time_steps=8, start=records.made("bptt", time_steps=8))])
    assert select.varying(rows) == []


def test_a_record_given_twice_counts_once():
    assert only([records.made(), records.made()]).accuracy.n == 1


def test_of_two_records_of_one_trial_the_finished_one_counts():
    cell = only([records.broken("failed"), records.made()])
    assert (cell.accuracy.n, cell.failures) == (1, ())


def test_failed_seeds_are_kept_with_their_reason():
    cell = only([records.made(seed=0), records.broken("diverged", "loss is NaN", seed=1)])
    assert cell.failures == (Failure(1, "diverged", "loss is NaN"),)
    assert cell.accuracy.n == 1


def test_a_trial_that_failed_before_reading_data_stays_in_its_cell():
    cell = only([records.made(seed=0), records.broken("failed", "no such folder", seed=1, data={})])
    assert (cell.dataset, len(cell.failures)) == ("Digits", 1)


def test_accuracy_is_averaged_at_every_step():
    cell = only(records.made(seed=seed, accuracy=accuracy, time_steps=2) for seed, accuracy in enumerate((90.0, 92.0)))
    assert {t: value.mean for t, value in cell.anytime.items()} == {1: 86.0, 2: 91.0}


def test_what_was_not_measured_is_none_and_not_zero():
    cell = only([records.made(cost=Cost())])
    assert cell.latency is cell.firing_rate is cell.synops is cell.energy is None


def test_costs_are_means_over_seeds_and_latency_the_median():
    found = [records.made(seed=seed, cost=records.measured(ms)) for seed, ms in enumerate((1.0, 2.0, 9.0))]
    cell = only(found)
    assert cell.latency.median_ms == 2.0
    assert cell.firing_rate == pytest.approx(0.2)
    assert cell.train_seconds == 6.0


def test_latency_is_that_of_the_smallest_batch_at_all_steps():
    small, large = records.measured(2.0, batch_size=1), records.measured(0.1, batch_size=256)
    short = records.measured(0.5, time_steps=2)
    cost = small.model_copy(update={"latency": [*large.latency, *short.latency, *small.latency]})
    latency = only([records.made(cost=cost)]).latency
    assert (latency.batch_size, latency.time_steps, latency.median_ms) == (1, 4, 2.0)


def test_energies_under_different_assumptions_are_not_averaged():
    one = records.measured()
    other = one.model_copy(update={"energy": one.energy.model_copy(update={"mac_picojoules": 1.0})})
    assert only([records.made(seed=0, cost=one), records.made(seed=1, cost=other)]).energy is None


def test_order_of_records_does_not_matter():
    found = records.sweep()
    shuffled = random.Random(0).sample(found, len(found))
    assert cells.of(found) == cells.of(shuffled)


def test_cells_are_sorted_by_numbers_not_by_letters():
    rows = cells.of(records.made(time_steps=t, settings={"v_threshold": v}) for t in (10, 9) for v in (10.0, 9.0))
    assert [(cell.time_steps, cell.configuration["settings.v_threshold"]) for cell in rows] == [
        (9, 9.0),
        (9, 10.0),
        (10, 9.0),
        (10, 10.0),
    ]


def test_choice_is_by_validation_and_never_by_test():
    worse = records.made(settings={"v_threshold": 0.5}, accuracy=99.0, validation=80.0)
    better = records.made(settings={"v_threshold": 1.0}, accuracy=70.0, validation=90.0)
    (chosen,) = select.best(cells.of([worse, better]))
    assert chosen.configuration["settings.v_threshold"] == 1.0


def test_nothing_is_chosen_where_nothing_was_validated():
    found = [records.made(settings={"v_threshold": v}, validation=None) for v in (0.5, 1.0)]
    assert select.best(cells.of(found)) == []


def test_the_only_cell_needs_no_validation():
    assert len(select.best(cells.of([records.made(validation=None)]))) == 1


def test_a_cell_with_a_diverged_seed_is_chosen_last():
    lucky = [records.made(validation=99.0), records.broken("diverged", seed=1)]
    steady = [records.made(validation=90.0, seed=seed, settings={"v_threshold": 0.5}) for seed in (0, 1)]
    (chosen,) = select.best(cells.of(lucky + steady))
    assert not chosen.has_diverged


def test_every_selection_rule_chooses_for_itself():
    found = [records.made(), records.made(settings={"v_threshold": 0.5}, selection="best_test", validation=99.0)]
    assert len(select.best(cells.of(found))) == 2


def test_pareto_keeps_what_nothing_beats():
    points = {1: 80.0, 2: 90.0, 4: 90.0, 8: 95.0}
    rows = cells.of(records.made(time_steps=t, accuracy=accuracy) for t, accuracy in points.items())
    optimal = select.pareto(rows, lambda cell: cell.time_steps)
    assert [cell.time_steps for cell in rows if cell.key in optimal] == [1, 2, 8]


def test_equal_points_are_both_pareto_optimal():
    rows = cells.of([records.made("dsr"), records.made("ide")])
    assert len(select.pareto(rows, lambda cell: cell.time_steps)) == 2


def test_only_settings_that_differ_within_a_label_vary():
    found = [
        records.made("dsr", settings={"v_threshold": 1.0, "tau": 2.0}),
        records.made("dsr", settings={"v_threshold": 2.0, "tau": 2.0}),
        records.made("ide", settings={"v_threshold": 1.0, "tau": 3.0}),
    ]
    assert select.varying(cells.of(found)) == ["settings.v_threshold"]


def test_data_vary_when_any_two_cells_differ():
    found = [records.made("dsr", dataset={"validation": 0.1}), records.made("ide", dataset={"validation": 0.2})]
    assert select.varying(cells.of(found)) == ["dataset.validation"]


def test_a_network_without_time_steps_is_a_reference():
    assert select.references(cells.of(records.sweep())) == {"ann"}


def test_a_network_that_spikes_is_no_reference_at_one_step():
    rows = cells.of([records.made("bptt", time_steps=1, cost=records.measured(time_steps=1))])
    assert select.references(rows) == set()


def test_options_of_a_network_are_in_its_name():
    assert only([records.made(network={"name": "mlp", "width": 64})]).network == "mlp (width=64)"
