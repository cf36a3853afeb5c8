"""The simulated event camera: what it sends of edges, steps and stillness, against the model worked out by hand."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.data.source import find
from harness.formats.event_camera import Camera, moved, saccades
from tests.tiny import unhurried

IDEAL = Camera(threshold=0.25, mismatch=0, noise_hz=0)


def pictures(*intensities: float, shape: tuple[int, int] = (2, 3)) -> np.ndarray:
    """Evenly lit pictures, one after the other."""
    return np.array(intensities)[:, None, None] * np.ones(shape)


def every(milliseconds: int, number: int) -> np.ndarray:
    return np.arange(number) * 1000 * milliseconds


def one_by_one(logarithms: list[float], times: list[float], threshold: float) -> list[tuple[int, int]]:
    """Times and polarities that one pixel sends, level by level."""
    sent, remembered = [], logarithms[0]
    for (before, start), (after, end) in pairwise(zip(logarithms, times, strict=True)):
        while abs(after - remembered) >= threshold:
            remembered += threshold if after > remembered else -threshold
            sent.append((int(start + (remembered - before) / (after - before) * (end - start)), int(after > before)))
    return sent


@pytest.mark.parametrize(("step", "polarity"), [(3.0, 1), (1 / 3, 0)])
def test_edge_that_brightens_is_on_and_one_that_darkens_is_off(step, polarity):
    scene = np.where(np.arange(8) < 4, 1.0, step)[None]  # 1 W: an edge between the fourth and the fifth pixel
    found = IDEAL.record(np.stack([scene, np.roll(scene, -1, axis=1)]), every(1, 2))
    assert set(found["x"].tolist()) == {3, 7}
    assert set(found["p"][found["x"] == 3].tolist()) == {polarity}
    assert set(found["p"][found["x"] == 7].tolist()) == {1 - polarity}  # where the scene comes in again


@unhurried
@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0.05, 1))
def test_step_sends_its_logarithm_in_thresholds(before, after, threshold):
    found = Camera(threshold=threshold, mismatch=0, noise_hz=0).record(pictures(before, after), every(1, 2))
    levels = abs(np.log(after / before)) / threshold
    each = np.bincount(found["y"] * 3 + found["x"], minlength=6)
    assert len(set(each)) == 1
    assert levels - 1 - 1e-6 <= each[0] <= levels + 1e-6
    assert (found["p"] == (after > before)).all()


@unhurried
@given(st.lists(st.floats(0.05, 20), min_size=2, max_size=8))
def test_pixel_sends_at_the_crossing_of_each_level_and_remembers_it(intensities):
    logarithms = np.log(intensities)
    times = every(7, len(intensities)).tolist()
    found = IDEAL.record(pictures(*intensities, shape=(1, 1)), np.array(times))
    whole = (logarithms - logarithms[0]) / 0.25
    assume((abs(whole - whole.round()) > 1e-6)[1:].all())  # else rounding decides
    expected = one_by_one(logarithms.tolist(), times, 0.25)
    assert len(found) == len(expected)
    assert found["p"].tolist() == [on for _, on in expected]
    assert np.abs(found["t"] - np.array([t for t, _ in expected], dtype=int)).max(initial=0) <= 1


def test_stillness_without_noise_sends_nothing():
    still = np.random.default_rng(0).uniform(0.1, 1, (1, 4, 4)).repeat(9, axis=0)
    assert not len(Camera(noise_hz=0, mismatch=0.3).record(still, every(1, 9)))


@unhurried
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=5), st.sampled_from([0.1, 0.3, 0.7]))
def test_held_picture_sends_nothing_more_even_at_whole_thresholds(levels, threshold):
    held = pictures(1, *np.exp(threshold * np.array(levels)).repeat(3))
    found = Camera(threshold=threshold, mismatch=0, noise_hz=0).record(held, every(1, len(held)))
    assert (found["t"] % 3000 <= 1000).all()  # of three intervals, the first has the change


def test_noise_is_as_frequent_as_asked_everywhere_and_of_both_polarities():
    found = Camera(noise_hz=20).record(pictures(1, 1, shape=(10, 20)), np.array([0, 1_000_000]))
    assert len(found) == pytest.approx(20 * 200, abs=5 * np.sqrt(20 * 200))
    assert len(set(zip(found["x"].tolist(), found["y"].tolist(), strict=True))) == 200
    assert found["p"].mean() == pytest.approx(0.5, abs=0.05)
    assert np.histogram(found["t"], 4, (0, 1_000_000))[0].min() > 800


def test_equal_seeds_send_equal_events_and_others_do_not():
    times, places = saccades(4, 90_000, 6)
    scene = 0.2 + moved(np.eye(5), places, (12, 12), 2)
    first = Camera(seed=1, noise_hz=50).record(scene, times, 7)
    assert np.array_equal(first, Camera(seed=1, noise_hz=50).record(scene, times, 7))
    assert not np.array_equal(first, Camera(seed=2, noise_hz=50).record(scene, times, 7))
    assert not np.array_equal(first, Camera(seed=1, noise_hz=50).record(scene, times, 8))


def test_pattern_of_thresholds_belongs_to_the_camera_and_not_to_the_recording():
    thresholds = Camera(threshold=0.5, mismatch=0.1).thresholds((60, 60))
    assert thresholds.mean() == pytest.approx(0.5, abs=0.005)
    assert thresholds.std() == pytest.approx(0.05, abs=0.005)
    camera = Camera(threshold=0.5, mismatch=0.1, noise_hz=0)
    steps = pictures(1, np.exp(0.5), shape=(60, 60))
    found = camera.record(steps, every(1, 2), 1)
    assert {*zip(found["y"].tolist(), found["x"].tolist(), strict=True)} == {
        *map(tuple, np.argwhere(thresholds <= 0.5).tolist())
    }
    assert np.array_equal(found, camera.record(steps, every(1, 2), 2))


def test_resting_pixel_sends_nothing():
    camera, rested = (Camera(noise_hz=300, refractory_us=rest) for rest in (0, 5000))
    rising = pictures(*np.geomspace(1, 50, 20))
    all_of_them, found = (each.record(rising, every(10, 20)) for each in (camera, rested))
    expected, last = [], {}
    for event in all_of_them:
        where = (event["x"], event["y"])
        if event["t"] - last.get(where, -(10**9)) >= 5000:
            expected.append(event)
            last[where] = event["t"]
    assert 0 < len(found) < len(all_of_them)
    assert np.array_equal(found, np.array(expected))


def test_darkness_without_a_logarithm_is_refused():
    with pytest.raises(ValueError, match=r"intensities are above 0, for their logarithm; the least here is 0\.0"):
        IDEAL.record(pictures(0, 1), every(1, 2))


def test_saccades_go_round_a_triangle():
    times, places = saccades(7, 315_000, 5)
    assert np.diff(times) == pytest.approx(21_000)
    assert places[[0, 5, 10, 15]] == pytest.approx(np.array([[0, 0], [3.5, 7], [7, 0], [0, 0]]))  # as N-MNIST's
    steps = np.diff(places, axis=0).reshape(3, 5, 2)
    assert steps == pytest.approx(steps[:, :1].repeat(5, axis=1))


def test_image_moves_by_whole_pixels_without_a_change_and_is_bilinear_between():
    image = np.random.default_rng(0).random((4, 5))
    placed = moved(image, np.array([[2, 1], [2.25, 1]]), (9, 10), 1)
    expected = np.zeros((9, 10))
    expected[1:5, 2:7] = image
    assert placed[0] == pytest.approx(expected)
    assert placed[1] == pytest.approx(0.75 * expected + 0.25 * np.roll(expected, 1, axis=1))


def test_enlarged_image_is_that_of_a_bilinear_resize():
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).random((6, 7))
    enlarged = moved(image, np.zeros((1, 2)), (12, 14), 2)[0]
    expected = torch.nn.functional.interpolate(torch.from_numpy(image)[None, None], scale_factor=2, mode="bilinear")
    assert enlarged[1:-1, 1:-1] == pytest.approx(expected[0, 0, 1:-1, 1:-1].numpy())  # at its border it fades


def test_digits_are_seen_with_edges_of_both_polarities_at_all_times():
    samples = find("digits_events").samples()["test"]
    for events, label in (samples[index] for index in range(0, 360, 45)):
        assert 0 <= label < 10
        assert 500 < len(events) < 2000
        assert 0.4 < events["p"].mean() < 0.6
        assert np.histogram(events["t"], 10, (0, 99_000))[0].min() > 20


def test_digits_keep_their_labels_and_their_split():
    seen, still = find("digits_events").samples(), find("digits").samples()
    for split in ("train", "test"):
        assert len(seen[split]) == len(still[split])
        assert [seen[split][index][1] for index in range(0, 360, 9)] == [label for _, label in still[split][:360:9]]


def test_digits_answer_to_the_camera_s_settings():
    usual, *others = (
        find("digits_events", options).samples()["train"][0][0]
        for options in (
            {},
            {"threshold": 0.8},
            {"noise_hz": 0},
            {"mismatch": 0},
            {"seed": 1},
            {"refractory_us": 20_000},
        )
    )
    assert all(len(usual) != len(other) or not np.array_equal(usual, other) for other in others)
    assert len(others[0]) < 0.7 * len(usual)
