import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from harness import compare, comparison, contrast, markup, record, tradeoff
from harness.cli import app
from tests import records

A = {0: 95.1, 1: 95.9, 2: 95.4, 3: 96.2}
B = {0: 94.8, 1: 95.1, 2: 95.2, 3: 95.3}

values = st.floats(50, 100).map(lambda value: round(value, 3))
samples = st.dictionaries(st.integers(0, 9), values, min_size=1, max_size=8)
points = st.lists(st.tuples(st.floats(0.1, 100), st.floats(10, 100)), min_size=1, max_size=6)


def seeds(method: str, accuracies: dict[int, float], **options) -> list[record.Record]:
    return [records.made(method, seed=seed, accuracy=value, **options) for seed, value in accuracies.items()]


def found(a: str, b: str, *given: list[record.Record], **options) -> compare.Comparison:
    return compare.of(compare.selector(a), compare.selector(b), [r for some in given for r in some], **options)


def test_common_seeds_are_paired_as_scipy_does():
    ours, theirs = contrast.of(A, B), stats.ttest_rel(list(A.values()), list(B.values()))
    interval = theirs.confidence_interval(0.95)
    assert ours.test == "paired t"
    assert (ours.p, ours.low, ours.high) == pytest.approx((theirs.pvalue, interval.low, interval.high))


def test_other_seeds_are_compared_by_welch_as_scipy_does():
    other = {seed + 10: value for seed, value in B.items()} | {20: 93.9}
    ours, theirs = contrast.of(A, other), stats.ttest_ind(list(A.values()), list(other.values()), equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert ours.test == "Welch's t"
    assert (ours.p, ours.low, ours.high) == pytest.approx((theirs.pvalue, interval.low, interval.high))


def test_one_common_seed_is_no_pair():
    assert contrast.of({0: 1.0, 1: 2.0}, {1: 2.0, 2: 4.0}).test == "Welch's t"


def test_only_common_seeds_make_a_paired_difference():
    assert contrast.of({0: 90.0, 1: 91.0, 7: 10.0}, {0: 89.0, 1: 91.0}).difference == pytest.approx(0.5)


def test_effect_sizes_are_those_reckoned_by_hand():
    assert contrast.of({0: 3.0, 1: 5.0}, {0: 1.0, 1: 1.0}).effect == pytest.approx(3 / math.sqrt(2))
    # Pooled deviation 1, difference 2, four degrees of freedom: 2 (1 - 3 / 15).
    assert contrast.of({0: 3.0, 1: 4.0, 2: 5.0}, {5: 1.0, 6: 2.0, 7: 3.0}).effect == pytest.approx(1.6)


def test_a_single_seed_has_no_interval():
    ours = contrast.of({0: 95.0}, {0: 94.0})
    assert ours.difference == 1.0
    assert (ours.test, ours.low, ours.p, ours.effect, ours.more_seeds) == (None, None, None, None, None)
    assert ours.remark == "a single seed: no interval"


def test_seeds_without_spread_have_no_interval():
    ours = contrast.of({0: 95.0, 1: 95.0}, {0: 94.0, 1: 94.0})
    assert (ours.difference, ours.low, ours.effect) == (1.0, None, None)
    assert "no spread" in ours.remark


@pytest.mark.parametrize(("effect", "is_paired", "expected"), [(0.5, True, 34), (0.5, False, 64), (0.8, False, 26)])
def test_seeds_needed_are_those_of_the_published_tables(effect, is_paired, expected):
    # Exact sizes by the noncentral t, as power tables print them.
    assert contrast.seeds_needed(effect, is_paired=is_paired) == expected


def test_the_seeds_needed_reach_the_power():
    effect, count = 0.7, contrast.seeds_needed(0.7, is_paired=True)
    limit = stats.t.ppf(0.975, count - 1)
    power = stats.nct.sf(limit, count - 1, effect * math.sqrt(count))
    assert 0.79 < power < 0.83


def test_no_seeds_show_what_is_not_there():
    assert contrast.seeds_needed(0.0, is_paired=True) is None
    assert contrast.of({0: 1.0, 1: 2.0}, {0: 2.0, 1: 1.0}).more_seeds is None


def test_a_bootstrap_is_named_and_agrees_with_scipy_s():
    ours = contrast.of(A, B, bootstrap=True)
    differences = np.array([A[seed] - B[seed] for seed in A])
    theirs = stats.bootstrap((differences,), np.mean, method="percentile", rng=1).confidence_interval
    assert ours.test == "bootstrap, paired"
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    assert contrast.of(A, B, bootstrap=True) == ours


@given(samples)
def test_a_sample_against_itself_differs_by_nothing(sample):
    ours = contrast.of(sample, sample)
    assert ours.difference == 0
    assert ours.low is None or ours.low <= 0 <= ours.high
    assert ours.more_seeds is None


@settings(deadline=None)
@given(samples, samples)
def test_swapping_flips_the_signs(a, b):
    there, back = contrast.of(a, b), contrast.of(b, a)
    assert there.difference == pytest.approx(-back.difference)
    assert (there.test, there.remark, there.more_seeds) == (back.test, back.remark, back.more_seeds)
    if there.low is not None:
        assert (there.low, there.high, there.p) == pytest.approx((-back.high, -back.low, back.p), abs=1e-9)
        assert there.effect == pytest.approx(-back.effect)


@given(samples, samples)
def test_the_interval_holds_the_difference(a, b):
    ours = contrast.of(a, b)
    assert ours.low is None or ours.low <= ours.difference <= ours.high


def test_a_wider_confidence_is_a_wider_interval():
    narrow, wide = contrast.of(A, B, confidence=0.9), contrast.of(A, B, confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_accuracy_at_equal_latency_is_the_mean_over_the_common_range():
    # 90 + x against 89 + x: one point better between 2 and 3 ms, and 2 ms against 3 ms on average from 91 to 93 %.
    ours = tradeoff.of([(1.0, 91.0), (3.0, 93.0)], [(2.0, 91.0), (4.0, 93.0)])
    assert (ours.accuracy_gain, ours.latencies) == (pytest.approx(1.0), (2.0, 3.0))
    assert (ours.latency_ratio, ours.accuracies) == (pytest.approx(2 / 3), (91.0, 93.0))


def test_ranges_that_do_not_overlap_are_named():
    ours = tradeoff.of([(1.0, 91.0), (2.0, 92.0)], [(5.0, 95.0)])
    assert (ours.accuracy_gain, ours.latency_ratio) == (None, None)
    assert "latencies do not overlap: 1 to 2 ms and 5 ms" in ours.remark
    assert "accuracies do not overlap: 91 to 92 % and 95 %" in ours.remark


def test_a_single_point_is_compared_where_it_stands():
    ours = tradeoff.of([(1.0, 90.0), (3.0, 94.0)], [(2.0, 91.0)])
    assert (ours.accuracy_gain, ours.latency_ratio) == (pytest.approx(1.0), pytest.approx(0.75))


def test_slower_and_worse_points_do_not_count():
    assert tradeoff.front([(1.0, 90.0), (2.0, 89.0), (3.0, 92.0)]) == [(1.0, 90.0), (3.0, 92.0)]


@given(points)
def test_a_method_is_as_fast_and_as_good_as_itself(some):
    ours = tradeoff.of(some, some)
    assert ours.accuracy_gain == pytest.approx(0, abs=1e-9)
    assert ours.latency_ratio == pytest.approx(1)


@given(points, points)
def test_swapping_methods_turns_the_trade_off_round(a, b):
    there, back = tradeoff.of(a, b), tradeoff.of(b, a)
    if there.accuracy_gain is not None:
        assert there.accuracy_gain == pytest.approx(-back.accuracy_gain, abs=1e-9)
    if there.latency_ratio is not None:
        assert there.latency_ratio * back.latency_ratio == pytest.approx(1)


def test_pairs_have_dataset_network_and_t_in_common():
    given_ = [seeds(method, A, time_steps=t) for method in ("dsr", "bptt") for t in (2, 4)]
    assert [(pair.a.time_steps, pair.b.time_steps) for pair in found("dsr", "bptt", *given_).pairs] == [(2, 2), (4, 4)]
    assert [pair.a.time_steps for pair in found("dsr", "bptt", *given_, time_steps=[4]).pairs] == [4]


def test_what_both_name_need_not_be_the_same():
    given_ = [seeds("dsr", A, time_steps=t) for t in (2, 4)]
    (pair,) = found("dsr:T=2", "dsr:T=4", *given_).pairs
    assert (pair.a.time_steps, pair.b.time_steps) == (2, 4)


def test_an_ordinary_network_is_compared_at_every_t():
    given_ = [seeds("ann", A, time_steps=1), seeds("dsr", B, time_steps=2), seeds("dsr", B, time_steps=8)]
    assert [pair.b.time_steps for pair in found("ann", "dsr", *given_).pairs] == [2, 8]


def test_the_cells_chosen_by_validation_are_compared():
    good = seeds("dsr", {0: 90.0, 1: 90.5}, settings={"v_threshold": 1.0}, validation=95.0)
    lucky = seeds("dsr", {0: 99.0, 1: 99.0}, settings={"v_threshold": 2.0}, validation=80.0)
    (pair,) = found("dsr", "bptt", good, lucky, seeds("bptt", B)).pairs
    assert pair.a.configuration["settings.v_threshold"] == 1.0


def test_a_setting_chooses_among_cells():
    some = [seeds("dsr", A, settings={"v_threshold": v}, validation=90 + v) for v in (1.0, 2.0)]
    (pair,) = found("dsr:v_threshold=1", "bptt", *some, seeds("bptt", B)).pairs
    assert pair.a.configuration["settings.v_threshold"] == 1.0


def test_records_of_the_second_may_stand_elsewhere():
    asked = compare.selector("dsr")
    (pair,) = compare.of(asked, asked, seeds("dsr", A), seeds("dsr", B)).pairs
    assert pair.contrast.difference == pytest.approx(0.55)


def test_methods_measured_on_other_machines_have_no_common_latency():
    mine = seeds("dsr", A, cost=records.measured(1.0))
    theirs = seeds("bptt", B, cost=records.measured(2.0), machine={"cpu": "Other CPU"})
    (curves,) = found("dsr", "bptt", mine, theirs).curves
    assert curves.tradeoff is None
    assert "different conditions" in curves.remark


@pytest.mark.parametrize("text", ["", "@mlp", "dsr@", "dsr:T", "dsr:"])
def test_a_selector_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="expected LABEL"):
        compare.selector(text)


@pytest.mark.parametrize(
    ("a", "said"),
    [("dsrr", "nothing has method=dsrr"), ("dsr:tau=3", "no key 'tau'"), ("dsr:T=9", "nothing has time_steps=9")],
)
def test_a_selector_that_meets_nothing_says_what_there_is(a, said):
    with pytest.raises(ValueError, match=said):
        found(a, "bptt", seeds("dsr", A), seeds("bptt", B))


def test_methods_without_a_common_network_are_refused():
    with pytest.raises(ValueError, match="dsr and bptt have no dataset, network and T in common"):
        found("dsr", "bptt", seeds("dsr", A), seeds("bptt", B, network={"name": "vgg11"}))


def test_a_comparison_is_written_as_tables_and_json():
    ours = found("dsr", "bptt", seeds("dsr", A, cost=records.measured()), seeds("bptt", B, cost=records.measured()))
    text = "\n".join(map(markup.markdown, comparison.tables(ours)))
    assert "| +0.55 |" in text
    assert "paired t, 4 pairs" in text
    assert "Guenther" in text
    (pair,) = json.loads(comparison.json(ours))["pairs"]
    assert pair["test"] == "paired t"
    assert pair["a"]["seeds"] == [0, 1, 2, 3]


@pytest.fixture
def folder(tmp_path):
    for made in [*seeds("dsr", A), *seeds("bptt", {0: 94.0})]:
        record.write(made, tmp_path)
    return str(tmp_path)


def test_the_command_says_that_one_seed_has_no_interval(folder):
    result = CliRunner().invoke(app, ["compare", "dsr", "bptt", folder, "--format", "md"])
    assert result.exit_code == 0
    assert "a single seed: no interval" in result.stdout


def test_the_command_writes_json(folder):
    result = CliRunner().invoke(app, ["compare", "dsr", "bptt", folder, "--json"])
    assert json.loads(result.stdout)["pairs"][0]["difference"] == pytest.approx(1.65)


def test_what_rounding_to_six_decimals_leaves_is_no_difference():
    first, second = {0: 98.333333, 1: 98.333333, 2: 98.611111}, {0: 98.888889, 1: 98.055556, 2: 98.333333}
    found = contrast.of(first, second)
    assert (found.difference, found.more_seeds) == (0.0, None)
