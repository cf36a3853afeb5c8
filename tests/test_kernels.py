"""The kernels that take a layer of neurons through all time steps at once, against the plain loop over time."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness import kernels
from harness.config import Train
from harness.kernels import Kernel, compiled
from harness.loop import Setup, Training
from harness.models import surrogate_neuron
from harness.models.neurons import Dynamics
from harness.models.surrogate import WIDTHS
from harness.models.surrogate_neuron import SurrogateNeuron
from harness.plugins import load
from tests import tiny

RESETS = [(reset, detach) for reset in ("soft", "hard") for detach in (False, True)]


def spikes_and_gradient(
    shape="triangle", reset="soft", detach=False, *, static=False, device="cpu", before=False, **changes
):
    """Spikes of a layer for random currents in channels-last layout, and the gradients of currents and of what was."""
    generator = torch.Generator().manual_seed(0)
    current = 2 * torch.randn(1 if static else 5, 3, 4, 6, 6, generator=generator)
    weights = torch.randn(5, *current.shape[1:], generator=generator).to(device)
    dynamics = Dynamics(leak=0.7, reset=reset)
    neuron = SurrogateNeuron(
        dynamics, v_threshold=0.8, shape=shape, width=WIDTHS[shape], detach_reset=detach, **changes
    )  # fmt: skip
    neuron.compile_loop = True
    rows = [step.contiguous(memory_format=torch.channels_last) for step in current.to(device)]
    current = torch.stack(rows).requires_grad_()
    v = current.detach()[0].mul(0.3).requires_grad_() if before else None
    x = current.expand(5, *current.shape[1:]) if static else current
    spikes, last = surrogate_neuron._Unrolled.apply(x[:1] if static else x, v, None, 5, neuron)
    ((spikes * weights).sum() + last.sum()).backward()
    return spikes.detach(), current.grad, None if v is None else v.grad, last.detach()


def assert_kernel_is_the_loop(monkeypatch, kernel: Kernel | None, **case) -> None:
    """`kernel` None: whichever is chosen for the device."""
    if kernel is not None:
        monkeypatch.setattr(kernels, "kernel", lambda current, compile: kernel)
    found = spikes_and_gradient(**case)
    monkeypatch.setattr(kernels, "kernel", lambda current, compile: None)
    expected = spikes_and_gradient(**case)
    assert torch.equal(found[0], expected[0]), "spikes differ"
    assert torch.equal(found[3], expected[3]), "potentials at the end differ"
    assert 0 < expected[0].mean() < 1
    for one, other in zip(found[1:3], expected[1:3], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("reset", "detach"), RESETS)
def test_compiled_kernel_gives_the_loops_spikes_and_gradients(reset, detach, monkeypatch):
    kernel = Kernel(compiled.forward, compiled.backward)
    assert_kernel_is_the_loop(monkeypatch, kernel, reset=reset, detach=detach, before=True)


@pytest.mark.parametrize("shape", WIDTHS)
def test_compiled_kernel_knows_every_surrogate_and_static_currents(shape, monkeypatch):
    assert_kernel_is_the_loop(monkeypatch, Kernel(compiled.forward, compiled.backward), shape=shape, static=True)


def test_triton_kernel_gives_the_loops_spikes_and_gradients():
    """In a process of its own, since Triton reads once whether it is to interpret."""
    pytest.importorskip("triton", reason="Triton comes with torch's CUDA builds; on CPUs `make setup` installs it")
    code = "from tests.test_kernels import check_interpreted; check_interpreted()"
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parent.parent
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["26", "cases"]


def check_interpreted() -> None:
    """Every surrogate, both resets, with and without gradient through the reset, still and moving; and a start."""
    from harness.kernels import cuda

    cases = [
        {"shape": shape, "reset": reset, "detach": detach, "static": detach == (reset == "soft")}
        for shape in WIDTHS
        for reset, detach in RESETS
    ]
    cases += [{"reset": reset, "before": True, "static": static} for reset in ("soft", "hard") for static in (1, 0)]
    cases += [{"shape": shape, "before": True} for shape in ("sigmoid", "gaussian")]
    with pytest.MonkeyPatch.context() as patch:
        for case in cases:
            assert_kernel_is_the_loop(patch, Kernel(cuda.forward, cuda.backward), **case)
    print(len(cases), "cases")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", WIDTHS)
@pytest.mark.parametrize(("reset", "detach"), RESETS)
@pytest.mark.parametrize("static", [False, True])
def test_triton_kernel_on_the_card(shape, reset, detach, static, monkeypatch):
    assert kernels.kernel(torch.zeros(1, device="cuda"), compile=False) is not None
    assert_kernel_is_the_loop(
        monkeypatch, None, shape=shape, reset=reset, detach=detach, static=static, device="cuda", before=True
    )


def test_plain_loop_serves_what_kernels_cannot():
    assert kernels.kernel(torch.zeros(1, dtype=torch.float64), compile=True) is None
    assert kernels.kernel(torch.zeros(1), compile=False) is None


def training(method: str, *, compile: bool) -> Training:
    task = tiny.task()
    recipe = Train(epochs=1, compile=compile)
    module = load("methods", method)
    return Training(Setup(module, module.Config(), task, recipe, feed=None, seed=0))  # type: ignore[arg-type]


def test_recipe_decides_whether_loops_are_compiled(caplog):
    def compiling(of: Training) -> set[bool]:
        return {layer.compile_loop for layer in of.net.modules() if isinstance(layer, SurrogateNeuron)}

    assert compiling(training("bptt", compile=True)) == {True}
    assert compiling(training("ottt", compile=True)) == {True}
    assert compiling(training("bptt", compile=False)) == {False}
    assert not caplog.records


def test_compiling_what_has_no_loop_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        training("ann", compile=True)
    assert "no effect" in caplog.text
