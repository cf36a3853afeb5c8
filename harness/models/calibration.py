"""Percentiles of what arrives at some places of a network, from which a spiking network takes its thresholds.

A place sees up to 10^9 values over a few batches of images, so values are counted, not kept: in bins of a relative
width of 0.05 %, 4 MiB a place however many values come. The result depends on no seed and not on the order of values.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

MANTISSA_BITS = 11
"""Bits of a float32's mantissa that tell bins apart; 2^-11 is the relative width of a bin at most."""
DROPPED_BITS = 23 - MANTISSA_BITS
NUM_BINS = 2 ** (8 + MANTISSA_BITS)


class Histogram:
    """Counts of values after a ReLU, zeros included, in bins whose width is proportional to the value."""

    def __init__(self) -> None:
        self.counts = torch.zeros(NUM_BINS, dtype=torch.int64)

    def add(self, values: Tensor) -> None:
        """Count all of `values`; negative ones as zeros."""
        # Read as integers, floats from 0 up keep their order: the leading bits, exponent first, number the bin.
        bins = values.detach().float().clamp(min=0).flatten().view(torch.int32) >> DROPPED_BITS
        self.counts += torch.bincount(bins, minlength=NUM_BINS).cpu()

    def percentile(self, q: float) -> float:
        """The value that q percent of the values do not exceed, to half a bin's width: 0 if so many are zero."""
        upto = self.counts.cumsum(0)
        rank = q / 100 * (int(upto[-1]) - 1)
        index = int(torch.searchsorted(upto, rank + 1))
        lower, upper = _edge(index), _edge(index + 1)
        return 0.0 if index == 0 else (lower + upper) / 2


def _edge(index: int) -> float:
    return torch.tensor(index << DROPPED_BITS, dtype=torch.int32).view(torch.float32).item()


@torch.no_grad()
def percentiles(net: nn.Module, sites: Sequence[nn.Module], batches: Iterable[Tensor], q: float) -> list[float]:
    """For each of `sites`, modules of `net`, the q-th percentile (0 to 100) of ReLU(its input), zeros included.

    Runs `net` on all of `batches` in eval mode and leaves its mode as it was. Bin width: 0.05 % of the value.
    Raises ValueError if there is no batch, if an input is not finite, or if a site is never reached.
    """
    histograms = [Histogram() for _ in sites]

    def counting(histogram: Histogram, place: int) -> object:
        def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            (values,) = inputs
            if not values.isfinite().all():
                raise ValueError(f"calibration: input of neurons {place} is not finite")
            # A still image's time steps are one tensor with stride 0; the same values once give the same percentile.
            histogram.add(values[0] if values.stride(0) == 0 else values)

        return count

    hooks = [
        site.register_forward_pre_hook(counting(histogram, place))  # type: ignore[arg-type]
        for place, (site, histogram) in enumerate(zip(sites, histograms, strict=True))
    ]
    was_training = net.training
    net.eval()
    try:
        for x in batches:
            net(x)
    finally:
        net.train(was_training)
        for hook in hooks:
            hook.remove()
    empty = [place for place, histogram in enumerate(histograms) if not histogram.counts.any()]
    if empty:
        raise ValueError(f"calibration: no value arrived at neurons {empty} (was there a batch?)")
    return [histogram.percentile(q) for histogram in histograms]
