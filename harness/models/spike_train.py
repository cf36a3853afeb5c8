"""The spikes of a layer over all time steps, kept as bits: T / 8 bytes a neuron instead of 4 T."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

WORD = 8
"""Time steps in one byte."""


class SpikeTrain:
    """Bit k of byte w of a neuron is its spike at time step WORD * w + k, counted from 0."""

    def __init__(self, shape: torch.Size, time_steps: int, device: torch.device) -> None:
        self.time_steps = time_steps
        words = -(-time_steps // WORD)
        layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        rows = torch.empty((words * shape[0], *shape[1:]), dtype=torch.uint8, device=device, memory_format=layout)
        self.words = rows.unflatten(0, (words, shape[0]))  # W B C ...

    def record(self, samples: slice, channels: slice, steps: Iterable[Tensor]) -> Iterator[Tensor]:
        """Write the spikes (0 or 1) of some samples and channels, time step by time step, and pass them on."""
        word = torch.empty(0)
        for t, spikes in enumerate(steps):
            if t == 0:
                word = torch.zeros_like(spikes)
            word.add_(spikes, alpha=2 ** (t % WORD))
            if t % WORD == WORD - 1 or t == self.time_steps - 1:
                self.words[t // WORD][samples, channels] = word
                word.zero_()
            yield spikes

    def steps(self, samples: slice, channels: slice, first: int, amplitude: Tensor) -> Iterator[Tensor]:
        """The spikes from time step `first` on, as floats, 0 or `amplitude`; each is overwritten by the next."""
        words = self.words[:, samples, channels]
        # One buffer for all time steps stays in the cache; new memory would cost more than the arithmetic.
        bits = torch.empty_like(words[0])
        spikes = torch.empty_like(bits, dtype=amplitude.dtype)
        for t in range(first, self.time_steps):
            value = 2 ** (t % WORD)
            torch.bitwise_and(words[t // WORD], value, out=bits)
            yield spikes.copy_(bits).mul_(amplitude / value)
