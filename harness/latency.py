"""How long an inference takes: calls of `predict`, timed after a warm-up, and what else the machine was doing.

Batches of several sizes are simulated for T steps and for every power of two below, since after t steps of T a method
predicts what it predicts of an input that ends there (a check of `harness check`).
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.config import Evaluation
from harness.record import Latency

WARM_UP, WARM_UP_SECONDS = 3, 1.0
"""Untimed calls before the timed ones; fewer where they take this long together."""
LEAST, PATIENCE_SECONDS = 5, 5.0
"""Timed calls that are made even when time is up; fewer where they take this long together."""
CPU = Path("/sys/devices/system/cpu/cpu0/cpufreq")


def measure(predict: Callable[[Tensor], Any], x: Tensor, evaluation: Evaluation, device: torch.device) -> list[Latency]:
    """The latency of each batch size at each t, given samples x (T, B, ...); smaller batches where B is too small."""
    if not evaluation.latency_repeats:
        return []
    sizes = sorted({min(size, x.shape[1]) for size in evaluation.latency_batch_sizes})
    planned = [(size, t) for t in steps(len(x)) for size in sizes]
    found, state, left = [], machine_state(device), evaluation.latency_seconds
    for index, (size, t) in enumerate(planned):
        started = time.perf_counter()
        some, share = x[:t, :size], left / (len(planned) - index)
        seconds = timed(lambda some=some: predict(some), evaluation.latency_repeats, share, device)  # type: ignore[misc]
        found.append(summary(seconds, size, t, device, state))
        left -= time.perf_counter() - started
    return found


def steps(time_steps: int) -> list[int]:
    """The powers of two below T, and T."""
    return [*(2**k for k in range((time_steps - 1).bit_length())), time_steps]


def timed(predict: Callable[[], Any], repeats: int, budget: float, device: torch.device) -> list[float]:
    """Seconds of at most so many calls, which take about the budget together, warm-up included."""
    warm, begun = list[float](), time.perf_counter()
    for seconds in _calls(predict, device):
        warm.append(seconds)
        if len(warm) == WARM_UP or sum(warm) > WARM_UP_SECONDS:
            break
    times = list[float]()
    for seconds in _calls(predict, device):
        times.append(seconds)
        spent = time.perf_counter() - begun
        enough = len(times) >= LEAST or sum(times) > PATIENCE_SECONDS
        if len(times) == repeats or (enough and spent > budget):
            break
    return times


def _calls(predict: Callable[[], Any], device: torch.device) -> Iterator[float]:
    while True:
        _wait(device)
        started = time.perf_counter()
        predict()
        _wait(device)
        yield time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summary(
    seconds: Sequence[float], batch_size: int, time_steps: int, device: torch.device, state: dict[str, float | str]
) -> Latency:
    """Milliseconds a sample; percentiles are the smallest call that as many calls do not exceed."""
    ordered = sorted(1000 * each / batch_size for each in seconds)

    def percentile(q: int) -> float:
        return ordered[-(-q * len(ordered) // 100) - 1]

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return Latency(
        batch_size=batch_size, time_steps=time_steps, repeats=len(ordered), device=name, state=state,
        median_ms=statistics.median(ordered), p95_ms=percentile(95), p99_ms=percentile(99),
    )  # fmt: skip


def machine_state(device: torch.device) -> dict[str, float | str]:
    """What the machine is doing now, as far as it says.

    load_1m, load_5m: processes that want a CPU, on average; running, processes: now; cpu_mhz, governor: of the CPU's
    clock; gpu_mhz, gpu_celsius, gpu_watts, gpu_percent: of the accelerator.
    """
    state: dict[str, float | str] = {}
    if load := _read(Path("/proc/loadavg")).split():
        running, _, processes = load[3].partition("/")
        state |= {"load_1m": float(load[0]), "load_5m": float(load[1])}
        state |= {"running": float(running), "processes": float(processes)}
    if (mhz := _cpu_mhz()) is not None:
        state["cpu_mhz"] = mhz
    if governor := _read(CPU / "scaling_governor").strip():
        state["governor"] = governor
    return state | (_gpu_state(device) if device.type == "cuda" else {})


def _cpu_mhz() -> float | None:
    """Mean clock rate of the CPUs that this process may use."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
    rates = [_read(CPU.parent.parent / f"cpu{index}/cpufreq/scaling_cur_freq") for index in sorted(allowed)]
    if all(rates):
        return round(statistics.fmean(float(rate) for rate in rates) / 1000, 1)
    lines = [line for line in _read(Path("/proc/cpuinfo")).splitlines() if line.startswith("cpu MHz")]
    return round(statistics.fmean(float(line.rpartition(":")[2]) for line in lines), 1) if lines else None


def _gpu_state(device: torch.device) -> dict[str, float | str]:
    """What torch can tell with NVIDIA's bindings; without these, or where the driver does not say, nothing."""
    asked = {
        "gpu_mhz": lambda: torch.cuda.clock_rate(device),
        "gpu_celsius": lambda: torch.cuda.temperature(device),
        "gpu_watts": lambda: torch.cuda.power_draw(device) / 1000,
        "gpu_percent": lambda: torch.cuda.utilization(device),
    }
    state: dict[str, float | str] = {}
    for key, ask in asked.items():
        try:
            state[key] = float(ask())
        except (ImportError, RuntimeError, OSError):
            continue
        except Exception as error:
            # NVIDIA's bindings are not a dependency, so their error has no name here.
            if type(error).__name__.startswith("NVMLError"):
                continue
            raise
    return state


def _read(file: Path) -> str:
    """The content of a file of the system; empty where there is none, or none that may be read."""
    try:
        return file.read_text()
    except OSError:
        return ""
