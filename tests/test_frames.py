"""Frames from events: the compiled kernel, numpy, and tonic's ToFrame make the same of the same events."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import Augment, Frames
from harness.contract import DatasetInfo
from harness.data import augment, event_store, frames
from harness.formats.events import EVENT

kernel = pytest.importorskip("harness.data.frame_kernel")
SENSOR, LARGE = (2, 6, 8), (2, 180, 240)


def info(sensor: tuple[int, int, int]) -> DatasetInfo:
    return DatasetInfo("x", sensor, 2, {"train": 1, "test": 1}, (), (), "", "", "", stored="events")


def recording(number: int, sensor=SENSOR, duration: int = 200_000, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    found = np.zeros(number, EVENT)
    found["t"] = 10**12 + np.sort(random.integers(0, duration, number))
    for name, side in zip("pyx", sensor, strict=True):
        found[name] = random.integers(0, side, number)
    return found


def made(found: np.ndarray, time_steps: int, sensor=SENSOR, drop: Any = None, **options: Any) -> np.ndarray:
    """Frames, after the kernel and numpy have agreed on them."""
    cut, stored = frames.cut(info(sensor), Frames(**options), time_steps), event_store.pack(found, sensor)
    one, many = np.full(cut.shape, 9, np.uint8), np.full((2, *cut.shape), 9, np.uint8)
    kernel.make(stored, cut, drop, one)
    padded = np.concatenate([np.zeros(8, np.uint8), stored, np.zeros(-len(stored) % 4, np.uint8), stored])
    starts, sizes = np.array([8, len(padded) - len(stored)]), np.full(2, len(stored))
    kernel.fill(padded, starts, sizes, cut, None if drop is None else np.stack([drop, drop]), many)
    by_numpy = frames.count(cut, stored, drop)
    assert by_numpy.dtype == np.uint8
    for other in (one, *many):
        assert np.array_equal(by_numpy, other)
    return by_numpy


def by_tonic(found: np.ndarray, sensor=SENSOR, **options: Any) -> np.ndarray:
    tonic = pytest.importorskip("tonic")
    return tonic.transforms.ToFrame(sensor_size=(sensor[2], sensor[1], sensor[0]), **options)(found.copy())


gaps = st.lists(st.integers(0, 30) | st.integers(0, 100_000), min_size=1, max_size=60)


def spaced(times: list[int]) -> np.ndarray:
    found = recording(len(times), seed=len(times))
    found["t"] = 10**15 + np.cumsum(times)
    return found


@given(gaps, st.integers(1, 12))
def test_equal_parts_of_the_recording_are_tonics_time_bins(times, time_steps):
    found = spaced(times)
    assert np.array_equal(made(found, time_steps), by_tonic(found, n_time_bins=time_steps))


@given(gaps, st.integers(1, 12))
def test_equal_numbers_of_events_are_tonics_event_bins(times, time_steps):
    found = spaced(times)
    assert np.array_equal(made(found, time_steps, by="count"), by_tonic(found, n_event_bins=time_steps))


@given(gaps, st.integers(1, 12), st.integers(1, 50_000), st.integers(0, 100_000))
def test_windows_are_tonics_from_the_start_on_for_as_many_frames(times, time_steps, window, start):
    found = spaced(times)
    begin = int(found["t"][0]) + start
    expected = by_tonic(found, time_window=window, start_time=begin, end_time=begin + time_steps * window)
    assert np.array_equal(made(found, time_steps, window_us=window, start_us=start), expected)


@given(gaps, st.integers(1, 12), st.integers(0, 100_000), st.integers(1, 200_000))
def test_a_duration_is_divided_into_equal_windows(times, time_steps, start, duration):
    found = spaced(times)
    got = made(found, time_steps, start_us=start, duration_us=duration)
    window = duration // time_steps
    expected = made(found, time_steps, start_us=start, window_us=window) if window else np.zeros_like(got)
    assert np.array_equal(got, expected)


@given(gaps, st.integers(1, 12), st.integers(0, 100_000), st.integers(1, 200_000) | st.none())
def test_by_count_only_events_of_the_stretch_of_time_are_counted(times, time_steps, start, duration):
    found = spaced(times)
    t = found["t"] - found["t"][0]
    part = found[(t >= start) & (t < start + (duration or 1 << 40))]
    got = made(found, time_steps, by="count", start_us=start, duration_us=duration)
    assert np.array_equal(got, by_tonic(part, n_event_bins=time_steps) if len(part) else np.zeros_like(got))


def test_start_without_duration_divides_what_is_left():
    found = recording(500, duration=100_000)
    last = int(found["t"][-1] - found["t"][0])
    got = made(found, 7, start_us=30_000)
    assert np.array_equal(got, made(found, 7, start_us=30_000, window_us=(last - 30_000) // 7))


@pytest.mark.parametrize("options", [{}, {"by": "count"}, {"window_us": 700}])
def test_a_large_sensor_is_cut_as_a_small_one(options):
    found = recording(5000, LARGE)
    theirs = {"by": {"n_event_bins": 4}, "window_us": {"time_window": 700}}
    chosen = next((theirs[key] for key in options), {"n_time_bins": 4})
    assert np.array_equal(made(found, 4, LARGE, **options), by_tonic(found, LARGE, **chosen)[:4])


@pytest.mark.parametrize("sensor", [SENSOR, LARGE])
def test_polarities_are_added_and_squares_of_pixels_too(sensor):
    found = recording(3000, sensor)
    whole = made(found, 3, sensor).astype(int)
    height, width = sensor[1] // 2, sensor[2] // 2
    squares = whole.reshape(3, 2, height, 2, width, 2).sum((3, 5))
    assert np.array_equal(made(found, 3, sensor, polarities=1), whole.sum(1, keepdims=True))
    assert np.array_equal(made(found, 3, sensor, downsample=2), squares)
    assert np.array_equal(made(found, 3, sensor, downsample=2, polarities=1), squares.sum(1, keepdims=True))
    assert np.array_equal(made(found, 3, sensor, downsample=2, binary=True), squares > 0)


def test_counts_are_clipped_where_bytes_end():
    found = recording(1001, (2, 1, 1))
    assert made(found, 1, (2, 1, 1)).tolist() == [[[[255]], [[255]]]]
    assert made(found, 1, (2, 1, 1), binary=True).tolist() == [[[[1]], [[1]]]]


@pytest.mark.parametrize("options", [{}, {"by": "count"}, {"window_us": 5}, {"duration_us": 50, "start_us": 3}])
@pytest.mark.parametrize("number", [0, 1])
def test_hardly_any_events_make_frames_all_the_same(options, number):
    got = made(recording(number), 5, **options)
    assert got.shape == (5, *SENSOR)
    assert got.sum() == (number if options == {"window_us": 5} else 0)


def test_numbers_beyond_any_recording_are_harmless():
    got = made(recording(50), 3, start_us=10**30)
    assert got.sum() == 0
    assert made(recording(50), 3, window_us=10**30).sum() == 50


def rows(fraction: float, number: int = 400) -> np.ndarray:
    return augment.drops(number, Augment(event_drop=fraction), seed=3, epoch=1)


@pytest.mark.parametrize("options", [{}, {"by": "count"}, {"downsample": 2}])
def test_dropped_events_are_missing_and_borders_of_frames_stay(options):
    found = recording(4000)
    drop = np.array([123456789, frames.DRAWS // 4], np.uint64)
    some, whole = made(found, 5, drop=drop, **options), made(found, 5, **options)
    assert (some <= whole).all()
    kept = some.sum((1, 2, 3)) / whole.sum((1, 2, 3))
    assert (abs(kept - 0.75) < 0.06).all()


@settings(max_examples=30)
@given(st.integers(0, 2**64 - 1), st.integers(1, frames.DRAWS - 1), st.integers(0, 200), st.integers(1, 7))
def test_kernel_and_numpy_leave_out_the_same_events(key, left_out, number, time_steps):
    made(recording(number), time_steps, drop=np.array([key, left_out], np.uint64))


def test_each_event_is_left_out_alike_often_and_for_itself():
    """Draws of neighbouring events and of neighbouring keys hang together in nothing."""
    draws = np.stack([frames._draws(key, np.arange(4000)) for key in range(20)]) / frames.DRAWS
    assert abs(draws.mean() - 0.5) < 0.01
    assert abs(draws.std() - 12**-0.5) < 0.01
    assert all(abs(np.corrcoef(draws[:, :-lag].ravel(), draws[:, lag:].ravel())[0, 1]) < 0.02 for lag in (1, 2, 3, 4))
    assert np.abs(np.corrcoef(draws) - np.eye(20)).max() < 0.08


def test_the_fraction_is_drawn_for_each_recording_by_seed_and_epoch():
    drawn = rows(0.4)
    fractions = drawn[:, 1] / frames.DRAWS
    assert 0 <= fractions.min() < 0.02
    assert 0.38 < fractions.max() < 0.4
    assert len(np.unique(drawn[:, 0])) == len(drawn)
    assert np.array_equal(drawn, rows(0.4))
    assert not np.array_equal(drawn, augment.drops(400, Augment(event_drop=0.4), seed=3, epoch=2))
    assert augment.drops(400, Augment(), seed=3, epoch=1) is None


def test_threads_do_not_matter():
    import numba

    stored = [event_store.pack(recording(300, seed=seed), SENSOR) for seed in range(9)]
    sizes = np.array([len(each) for each in stored])
    data, starts = np.concatenate(stored), np.cumsum(sizes) - sizes
    cut, drops, before = frames.cut(info(SENSOR), Frames(), 4), rows(0.5, 9), numba.get_num_threads()
    got = []
    for number in {1, before}:
        numba.set_num_threads(number)
        got.append(np.empty((9, *cut.shape), np.uint8))
        kernel.fill(data, starts, sizes, cut, drops, got[-1])
    numba.set_num_threads(before)
    assert all(np.array_equal(got[0], other) for other in got)


@given(st.binary(max_size=200), st.sampled_from([SENSOR, LARGE]))
def test_damaged_recordings_write_nowhere_else(content, sensor):
    stored = np.frombuffer(content + bytes(-len(content) % 4) + bytes(4), np.uint8)
    cut = frames.cut(info(sensor), Frames(downsample=2), 2)
    around = np.full((4, *cut.shape[1:]), 7, np.uint8)
    kernel.make(stored, cut, None, around[1:3])
    assert (around[0] == 7).all()
    assert (around[3] == 7).all()


def test_frames_are_resized_bilinearly_between_neighbours():
    x = torch.randint(0, 9, (2, 3, 1, 8, 8), dtype=torch.uint8)
    got = frames.resized(x, 3)
    assert got.shape == (2, 3, 1, 3, 3)
    place = (torch.arange(3) + 0.5) * 8 / 3 - 0.5
    low, part = place.floor().long(), place - place.floor()
    lines = x[..., low, :] * (1 - part[:, None]) + x[..., low + 1, :] * part[:, None]
    torch.testing.assert_close(got, lines[..., low] * (1 - part) + lines[..., low + 1] * part)
