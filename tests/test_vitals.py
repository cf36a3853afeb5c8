import gc
import pickle
import threading

import pytest

from harness import vitals
from harness.result import Progress
from tests.faults import wait_for


def watching() -> int:
    return sum(thread.name == "vitals" for thread in threading.enumerate())


@pytest.fixture
def quick(monkeypatch):
    """Looks at the machine as often as it can."""
    monkeypatch.setattr(vitals, "FIRST_PERIOD_SECONDS", 0.001)


def test_a_trial_of_any_length_is_looked_at_once_at_least():
    watch = vitals.Watch()
    watch.stop()
    found = watch.series()
    assert next(iter(found)) == "seconds"
    assert {len(values) for values in found.values()} == {1}
    assert found["system_memory_usage_megabytes"][0] > found["process_memory_usage_megabytes"][0] > 10


def test_series_stay_short_however_long_a_trial_takes(quick, monkeypatch):
    monkeypatch.setattr(vitals, "MOST_SAMPLES", 8)
    watch = vitals.Watch()
    wait_for(lambda: watch.period() >= 0.004, 30)
    watch.stop()
    times = watch.series()["seconds"]
    assert 4 <= len(times) <= 8
    assert times == sorted(times)


def test_what_is_stopped_or_forgotten_is_not_watched_any_more():
    before = watching()
    watch = vitals.Watch()
    assert watching() == before + 1
    watch.stop()
    assert watching() == before
    forgotten = vitals.Watch()
    assert watching() == before + 1
    del forgotten
    gc.collect()
    wait_for(lambda: watching() == before, 10)


def test_a_restart_goes_on_behind_what_was_seen_before():
    progress = Progress(started=0.0, elapsed=100.0)
    progress.vitals.stop()
    state = pickle.loads(pickle.dumps(progress.state()))
    again = Progress.again(progress.started, state)
    again.vitals.stop()
    first, second = again.vitals.series()["seconds"]
    assert [first] == state["system"]["seconds"]
    assert second >= first


def test_a_state_of_before_there_were_vitals_is_gone_on_from():
    again = Progress.again(0.0, {"elapsed": 1.0, "restarts": 0, "since": "2026-01-02T03:04:05+00:00"})
    again.vitals.stop()
    assert len(again.vitals.series()["seconds"]) == 1
