import pytest
import torch

from harness import latency
from harness.config import Evaluation
from harness.loop import CPU


@pytest.fixture
def clock(monkeypatch):
    """A clock on which nothing passes but what a test lets pass."""
    now = [0.0]
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])

    def let_pass(seconds: float) -> None:
        now[0] += seconds

    return let_pass


def test_latency_is_measured_after_a_warm_up(clock):
    calls = iter([9.0, 0.001, 0.001, 0.002, 0.004])
    times = latency.timed(lambda: clock(next(calls)), 2, 1e9, CPU)
    assert times == pytest.approx([0.001, 0.001])  # of slow calls, one is warm-up enough
    calls = iter([0.5, 0.25, 0.125, 0.002, 0.004, 1.0])
    assert latency.timed(lambda: clock(next(calls)), 2, 1e9, CPU) == pytest.approx([0.002, 0.004])


def test_calls_end_with_the_budget_but_not_before_there_are_a_few(clock):
    assert len(latency.timed(lambda: clock(0.01), 100, 0.2, CPU)) == pytest.approx(20 - latency.WARM_UP, abs=1)
    assert len(latency.timed(lambda: clock(0.01), 100, 1e-6, CPU)) == latency.LEAST
    assert len(latency.timed(lambda: clock(4.0), 100, 1e-6, CPU)) == 2  # for PATIENCE_SECONDS
    assert len(latency.timed(lambda: clock(0.01), 7, 1e9, CPU)) == 7


def test_percentiles_are_calls_that_were_made():
    found = latency.summary([k / 1000 for k in range(200, 0, -1)], 2, 4, CPU, {})
    assert (found.median_ms, found.p95_ms, found.p99_ms) == pytest.approx((50.25, 95, 99))
    few = latency.summary([0.001, 0.003], 1, 4, CPU, {})
    assert (few.median_ms, few.p95_ms, few.p99_ms, few.repeats) == pytest.approx((2, 3, 3, 2))
    assert few.throughput == pytest.approx(500)


@pytest.mark.parametrize(("time_steps", "expected"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_steps_are_t_and_the_powers_of_two_below(time_steps, expected):
    assert latency.steps(time_steps) == expected


def test_every_batch_size_is_measured_at_each_of_these_steps():
    seen = []
    x = torch.zeros(5, 10, 3)
    settings = Evaluation(latency_batch_sizes=(1, 4, 64), latency_repeats=1)
    found = latency.measure(lambda some: seen.append(tuple(some.shape)), x, settings, CPU)
    measured = [(entry.batch_size, entry.time_steps) for entry in found]
    assert measured == [(size, t) for t in (1, 2, 4, 5) for size in (1, 4, 10)]  # of 64 samples, there are 10
    assert set(seen) == {(t, size, 3) for size, t in measured}
    assert found[0].state == found[-1].state


def test_still_image_stays_a_view():
    strides = []
    x = torch.zeros(10, 3).expand(4, 10, 3)
    latency.measure(lambda some: strides.append(some.stride(0)), x, Evaluation(latency_repeats=1), CPU)
    assert set(strides) == {0}


def test_machine_that_says_nothing_is_no_failure(monkeypatch):
    monkeypatch.setattr(latency, "_read", lambda file: "")
    assert latency.machine_state(CPU) == {}


def test_machine_state_is_what_the_system_says(monkeypatch):
    said = {"loadavg": "0.50 1.25 2.00 3/456 789", "scaling_governor": "performance\n", "scaling_cur_freq": "2400000\n"}
    monkeypatch.setattr(latency, "_read", lambda file: said.get(file.name, ""))
    assert latency.machine_state(CPU) == {
        "load_1m": 0.5, "load_5m": 1.25, "running": 3, "processes": 456, "cpu_mhz": 2400, "governor": "performance",
    }  # fmt: skip


def test_accelerator_without_bindings_is_no_failure(monkeypatch):
    def missing(device):
        raise ModuleNotFoundError("pynvml does not seem to be installed")

    for name in ("clock_rate", "temperature", "utilization"):
        monkeypatch.setattr(torch.cuda, name, missing)
    monkeypatch.setattr(torch.cuda, "power_draw", lambda device: 70_500)
    assert latency._gpu_state(torch.device("cuda", 0)) == {"gpu_watts": 70.5}
