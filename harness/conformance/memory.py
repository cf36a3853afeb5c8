"""Check of the claim MEMORY = "constant"."""

from unittest import mock

from harness.conformance import step
from harness.conformance.case import CLASSES, Case, labels
from harness.conformance.expect import expect
from harness.live_memory import LiveMemory
from harness.models import streams

FEW, MANY, BATCH_SIZE = 6, 24, 32
GROWTH = 1.25
"""Peak memory of MANY time steps over that of FEW at most. What keeps every step's activations comes close to 4."""


def peak_bytes(case: Case, time_steps: int) -> int:
    """Peak of the tensors that one training step makes, beyond weights and input."""
    _, _, net = case.build(time_steps)
    x, y = case.x(time_steps, BATCH_SIZE), labels(BATCH_SIZE)
    with LiveMemory() as memory:
        step.take(case, net.train(), x, y)
    return memory.peak_bytes


def check_memory(case: Case) -> None:
    """Memory of a training step does not grow with T, as MEMORY = "constant" claims."""
    # The fixed working space of the streams would hold all time steps of a network as small as these.
    with mock.patch.multiple(streams, CURRENT_BYTES=0, TOGETHER=0):
        few, many = peak_bytes(case, FEW), peak_bytes(case, MANY)
    scores = 4 * (MANY - FEW) * BATCH_SIZE * CLASSES
    shown = f"{few / 1024:.0f} KiB at T = {FEW}, {many / 1024:.0f} KiB at T = {MANY}"
    ratio = (many - scores) / few
    expect(
        ratio <= GROWTH,
        f"{shown}, {ratio:.2f} times as much instead of {GROWTH} at most, the input and each step's scores not counted",
    )
