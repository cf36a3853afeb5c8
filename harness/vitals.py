"""How busy a trial's machine was while it trained: processor, memory and accelerators, looked at every few seconds.

What the machine does is read, nothing of the training is touched. The names are MLflow's, and so are the units.
"""

import contextlib
import threading
import time
import weakref
from collections.abc import Mapping

import psutil

MOST_SAMPLES = 120
"""When there are so many, every second one goes, and from then on half as many are taken."""
FIRST_PERIOD_SECONDS = 2.0
SECONDS = "seconds"
"""Key of the times: since the trial began, without the time between a kill and the restart."""


class Watch:
    """Looks at the machine in a thread of its own, from when it is made until `stop`, or until nobody holds it."""

    def __init__(self, before: Mapping[str, list[float]] | None = None, *, elapsed: float = 0.0) -> None:
        """Go on behind the series of a trial that was interrupted after `elapsed` seconds."""
        import torch

        self._begun = time.monotonic() - elapsed
        # Each thread has a current device of its own, so it is this one that is asked.
        gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None
        self._period = FIRST_PERIOD_SECONDS
        # Replaced as a whole or appended to, and so read without a lock, also in a process that was forked meanwhile.
        self._samples = _rows(before or {})
        self._ended = threading.Event()
        # Holds no reference, so that what is forgotten (a trial that failed) is not watched for ever.
        self._thread = threading.Thread(
            target=_watch, args=(weakref.ref(self), self._ended, gpu), name="vitals", daemon=True
        )
        weakref.finalize(self, self._ended.set).atexit = False
        self._thread.start()

    def stop(self) -> None:
        """Look a last time; nothing runs beside what follows, such as measurements of latency."""
        self._ended.set()
        self._thread.join(5)

    def series(self) -> dict[str, list[float]]:
        """Name -> values at the times that stand under 'seconds'; one that could not be read then is NaN."""
        samples = list(self._samples)
        names = dict.fromkeys(name for sample in samples for name in sample)
        return {name: [sample.get(name, float("nan")) for sample in samples] for name in names}

    def period(self) -> float:
        """Seconds until the next look."""
        return self._period

    def add(self, sample: Mapping[str, float]) -> None:
        """Take up what was seen now."""
        self._samples.append({SECONDS: round(time.monotonic() - self._begun, 1), **sample})
        if len(self._samples) >= MOST_SAMPLES:
            self._samples = self._samples[::2]
            self._period *= 2


def _watch(watch: "weakref.ref[Watch]", ended: threading.Event, gpu: int | None) -> None:
    gauge, period = _Gauge(gpu), FIRST_PERIOD_SECONDS
    while True:
        last = ended.wait(period)
        if (held := watch()) is None:
            return
        # A machine that says nothing of itself must not cost a training run.
        with contextlib.suppress(psutil.Error, OSError, RuntimeError):
            held.add(gauge.read())
        period = held.period()
        del held
        if last:
            return


class _Gauge:
    """Reads the machine; shares of time are those since the last reading, in the thread that it is made in."""

    def __init__(self, gpu: int | None) -> None:
        self._process, self._gpu = psutil.Process(), gpu
        psutil.cpu_percent()
        self._process.cpu_percent()

    def read(self) -> dict[str, float]:
        memory = psutil.virtual_memory()
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "process_cpu_utilization_percentage": self._process.cpu_percent(),
            "system_memory_usage_megabytes": round(memory.used / 1e6, 1),
            "system_memory_usage_percentage": memory.percent,
            "process_memory_usage_megabytes": round(self._process.memory_info().rss / 1e6, 1),
            **({} if self._gpu is None else _accelerator(self._gpu)),
        }


def _accelerator(index: int) -> dict[str, float]:
    """What torch and the driver's library know of an accelerator; CUDA itself is not called, it may be capturing."""
    import torch

    found = {f"gpu_{index}_process_memory_megabytes": round(torch.cuda.memory_reserved(index) / 1e6, 1)}
    # The rest needs the package nvidia-ml-py.
    with contextlib.suppress(ImportError, RuntimeError):
        found |= {
            f"gpu_{index}_memory_usage_megabytes": round(torch.cuda.device_memory_used(index) / 1e6, 1),
            f"gpu_{index}_utilization_percentage": float(torch.cuda.utilization(index)),
            f"gpu_{index}_power_usage_watts": torch.cuda.power_draw(index) / 1000,
        }
    return found


def _rows(series: Mapping[str, list[float]]) -> list[dict[str, float]]:
    return [dict(zip(series, values, strict=True)) for values in zip(*series.values(), strict=True)]
