"""What an inference would cost in energy: an estimate from counts, for a 45 nm chip, with its assumptions named.

Arithmetic and memory accesses are from M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC
2014, which gives 64-bit accesses of memories of three sizes; 32 bits are taken to cost half. What is accessed, after
the idea of Lemaire et al. (arXiv:2210.13107) to count accesses by layer, but simpler:

    every effective operation         reads one weight
    every neuron at every time step   reads and writes its potential
    matched ordinary network          every operation reads one weight, every output of a layer is written and read

The weights of a layer stand in the smallest of the memories that holds them, and so do its potentials or outputs; what
is larger than the largest stands in several of these. Spikes are taken to be free to send, input free to read.
"""

from collections.abc import Iterable

from harness import firing, operations
from harness.record import Energy

MAC_PICOJOULES = 4.6
AC_PICOJOULES = 0.9
SOURCE = (
    "45 nm CMOS, 32-bit floating point: multiplication 3.7 pJ, addition 0.9 pJ (Horowitz, ISSCC 2014); effective "
    "operations of convolutions and matrix products; matched ANN: one dense pass through the same layers"
)
ACCESS_PICOJOULES = {2**13: 5.0, 2**15: 10.0, 2**20: 50.0}
"""Bytes of a memory -> a 32-bit access: half of the 10, 20 and 100 pJ of 64 bits."""
MEMORY_SOURCE = (
    "on-chip SRAM, 45 nm, 32-bit access: 5, 10, 50 pJ in 8 KB, 32 KB, 1 MB, half of the 64-bit figures (Horowitz, "
    "ISSCC 2014); a layer's weights in the smallest that holds them, so its potentials; a weight read per effective "
    "operation, a potential read and written per neuron and time step; matched ANN: a weight read per operation, each "
    "layer's outputs written and read once"
)
WORD = 4
"""Bytes of a weight, a potential, an activation."""


def of(
    layers: Iterable[operations.Layer], neurons: Iterable[firing.Layer], samples: int, *, spiking: bool
) -> Energy:  # fmt: skip
    """The estimate, mean over so many samples, from what was counted; no memory where spikes but no neurons are known.

    A network that is not `spiking` has outputs of layers for potentials.
    """
    layers, neurons = list(layers), list(neurons)
    passed = [layer for layer in layers if layer.passes]
    outputs = sum(2 * _access(layer.outputs / layer.passes) * layer.outputs / layer.passes for layer in passed)
    potentials = sum(2 * _access(layer.neurons) * layer.neurons * layer.steps / samples for layer in neurons)
    reads = sum((layer.macs + layer.acs) / samples * _access(layer.weights) for layer in layers)
    macs = sum(layer.macs for layer in layers) / samples
    acs = sum(layer.acs for layer in layers) / samples
    dense = [(layer, layer.dense / layer.passes) for layer in passed]
    kept = potentials if spiking else outputs
    return Energy(
        nanojoules=(macs * MAC_PICOJOULES + acs * AC_PICOJOULES) / 1000,
        memory_nanojoules=(reads + kept) / 1000 if neurons or not spiking else None,
        ann_nanojoules=sum(count for _, count in dense) * MAC_PICOJOULES / 1000,
        ann_memory_nanojoules=(sum(count * _access(layer.weights) for layer, count in dense) + outputs) / 1000,
        mac_picojoules=MAC_PICOJOULES,
        ac_picojoules=AC_PICOJOULES,
        source=SOURCE,
        memory_source=MEMORY_SOURCE,
    )


def _access(values: float) -> float:
    """Picojoules of an access to one of so many values."""
    sizes = sorted(ACCESS_PICOJOULES)
    return ACCESS_PICOJOULES[next((size for size in sizes if values * WORD <= size), sizes[-1])]
