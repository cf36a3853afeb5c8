import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data import event_store
from harness.formats.events import EVENT

SMALL, LARGE = (2, 3, 4), (2, 180, 240)


def recording(*rows: tuple[int, int, int, int]) -> np.ndarray:
    """Events of (t, x, y, p)."""
    return np.array(list(rows), EVENT)


def places(cells: np.ndarray, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [tuple(map(int, place)) for place in np.stack(np.unravel_index(cells, shape), axis=1)]  # p y x


events = st.lists(
    st.tuples(st.integers(-(2**40), 2**40), st.integers(-1, 4), st.integers(-1, 3), st.integers(-1, 2)), max_size=40
)


@given(events)
def test_everything_on_the_sensor_comes_back_in_the_order_of_time(rows):
    inside = sorted((r for r in rows if 0 <= r[1] < 4 and 0 <= r[2] < 3 and 0 <= r[3] < 2), key=lambda row: row[0])
    kept = [row for row in inside if row[0] - inside[0][0] < 1 << 32]
    times, cells = event_store.unpack(event_store.pack(recording(*rows), SMALL), SMALL)
    assert times.tolist() == [row[0] - kept[0][0] for row in kept]
    assert places(cells, SMALL) == [(p, y, x) for _, x, y, p in kept]


@pytest.mark.parametrize("times", [(0, 65535, 65536), (0, 65536), (0, 5 << 16, (5 << 16) + 1), (0, (1 << 32) - 1)])
def test_times_are_exact_around_the_ends_of_stretches(times):
    stored = event_store.pack(recording(*((10**15 + time, 0, 0, 0) for time in times)), SMALL)
    assert event_store.unpack(stored, SMALL)[0].tolist() == list(times)


def test_an_event_takes_four_bytes_and_six_on_a_large_sensor():
    found = recording(*((t, t % 4, t % 3, t % 2) for t in range(1000)))
    assert len(event_store.pack(found, SMALL)) == 4 + 4 + 4 * 1000
    assert len(event_store.pack(found, LARGE)) == 4 + 4 + 6 * 1000


def test_a_large_sensor_keeps_its_last_cell():
    stored = event_store.pack(recording((7, 239, 179, 1), (9, 0, 0, 0)), LARGE)
    assert places(event_store.unpack(stored, LARGE)[1], LARGE) == [(1, 179, 239), (0, 0, 0)]


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_a_recording_may_be_empty(shape):
    stored = event_store.pack(recording(), shape)
    assert len(stored) == 4
    assert [len(part) for part in event_store.unpack(stored, shape)] == [0, 0]
