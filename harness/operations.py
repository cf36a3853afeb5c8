"""Counts synaptic operations as NeuroBench defines them, of what a network really computes, however a method calls it.

An operation is one weight meeting one activation in a convolution or a matrix product. `Dense` counts all of them,
without the zeros that pad an image; an operation is effective where neither the weight nor the activation is zero. It
is an accumulate (AC) where the activations are spikes, zeros and otherwise one value up to its sign, else a
multiply-accumulate (MAC). Biases, norms, pooling and the neurons themselves are not counted. Source: Yik et al., "The
neurobench framework", Nature Communications 2025 (arXiv:2304.04640), release 2.3, `SynapticOperations`.

Departures from NeuroBench, which looks at the calls of torch's layers:
- spikes are 0 and 1 (or -1) there; here of any one size, as neurons emit theta or theta / dt. Both judge a whole call;
  here that is often all time steps at once, there one: a step in which real input is all 0 and 1 is an AC there;
- what is computed once for all time steps, the layers below the first neurons on a still image, counts once;
- products that methods make by hand count, too; those of weights alone (a spectral norm) do not: a deployed network
  has them done.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.record import Operations

aten = torch.ops.aten
BLANK = (
    "empty_like",
    "zeros_like",
    "ones_like",
    "full_like",
    "new_empty",
    "new_empty_strided",
    "new_zeros",
    "new_full",
)
"""Operations whose result takes nothing but shape and type from the tensor that they are given."""


@dataclass
class Layer:
    """Sums over the calls of one layer, over all samples."""

    macs: float = 0.0
    acs: float = 0.0
    dense: float = 0.0
    passes: float = 0.0
    """How often a sample went through the whole layer."""
    outputs: float = 0.0
    weights: int = 0


class OperationCounter(TorchDispatchMode):
    """Counts while it is entered; enter it anew for every batch, after which `layers` hold the sums of all batches.

    Layers have the names of the parameters that their weights are, or are computed from.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.layers: dict[str, Layer] = {}
        self._weights: dict[int, _Weight] = {}
        """Storage -> parameters, buffers, and what is computed from them alone; autocast keeps some for later calls."""
        self._dense: dict[str, float] = {}
        """A convolution's `Dense` for one sample."""
        self._products = 0

    def __enter__(self) -> Any:
        self._products = 0
        for name, tensor in [*self.net.named_buffers(), *self.net.named_parameters()]:
            self._weights.setdefault(_storage(tensor), _Weight(_layer(name), tensor, tensor.numel()))
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        match func:
            case aten.convolution.default:
                self._convolution(out, *args)
            case aten.mm.default | aten.bmm.default:
                self._product(out, *args)
            case aten.addmm.default | aten.baddbmm.default:
                self._product(out, *args[1:3])
            case _:
                tensors = [arg for arg in (*args, *(kwargs or {}).values()) if isinstance(arg, Tensor)]
                if func.overloadpacket.__name__ not in BLANK:
                    for one in out if isinstance(out, tuple | list) else (out,):
                        self._derive(one, tensors)
        return out

    def operations(self, samples: int) -> Operations:
        """The mean over so many samples."""
        layers = self.layers.values()
        return Operations(
            Effective_MACs=sum(layer.macs for layer in layers) / samples,
            Effective_ACs=sum(layer.acs for layer in layers) / samples,
            Dense=sum(layer.dense for layer in layers) / samples,
        )

    def _convolution(self, out: Tensor, x: Tensor, weight: Tensor, bias: Any, *options: Any) -> None:
        if self._is_counted(x):
            # Sums of floats are faster than those of booleans, and as exact for less than 2^24 rows.
            effective = _meetings((x != 0).float().sum(0), weight != 0, *options)
            key = str((x.shape[1:], weight.shape, options))
            if key not in self._dense:
                self._dense[key] = _meetings(torch.ones_like(x[0]), torch.ones_like(weight), *options)
            self._count(x, weight, effective, len(x) * self._dense[key], rows=len(x), outputs=out.numel())

    def _product(self, out: Tensor, x: Tensor, weight: Tensor) -> None:
        """x (..., rows, N) times weight (..., N, M)."""
        if self._is_counted(x):
            effective = float(((x != 0).float().sum(-2).double() * (weight != 0).sum(-1)).sum())
            dense = float(x.numel() * weight.shape[-1])
            self._count(x, weight, effective, dense, rows=x.shape[:-1].numel(), outputs=out.numel())

    def _count(
        self, x: Tensor, weight: Tensor, effective: float, dense: float, *, rows: int, outputs: int
    ) -> None:  # fmt: skip
        found = self._weights.get(_storage(weight))
        if found is None:
            self._products += 1
            found = _Weight(f"product {self._products}", weight, weight.numel())
        layer = self.layers.setdefault(found.layer, Layer())
        if _are_spikes(x[:1]) and _are_spikes(x):  # most that are none show it soon
            layer.acs += effective
        else:
            layer.macs += effective
        layer.dense += dense
        layer.passes += rows * weight.numel() / found.whole  # some methods take some of its channels at a time
        layer.outputs += outputs
        layer.weights = found.whole

    def _is_counted(self, x: Tensor) -> bool:
        """Whether this is more than a question for a shape, and does not prepare weights."""
        return not x.is_meta and x.numel() > 0 and _storage(x) not in self._weights

    def _derive(self, out: Any, given: list[Tensor]) -> None:
        """Note what comes from parameters and buffers alone, such as a weight with its norm folded in."""
        if not isinstance(out, Tensor) or out.is_meta:
            return
        given = [tensor for tensor in given if tensor.dim()] or given
        known = [found for found in map(self._weights.get, map(_storage, given)) if found is not None]
        if known and len(known) == len(given):
            largest = max(known, key=lambda found: found.tensor.numel())
            whole = max(largest.whole, out.numel())
            self._weights.setdefault(_storage(out), _Weight(largest.layer, out, whole))
        elif known:
            self._weights.pop(_storage(out), None)


@dataclass(frozen=True)
class _Weight:
    layer: str
    tensor: Tensor
    """Kept so that its storage is not used again."""
    whole: int
    """Weights of the layer, of which this may be a part."""


def _meetings(
    active: Tensor, weights: Tensor, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any,
    groups: int,
) -> float:  # fmt: skip
    """How often active inputs (C, ...), counted over samples, meet weights that are not zero.

    That is the sum of the convolution of both; it is linear, so the weights are summed over output channels first.
    """
    apart = weights.double().unflatten(0, (groups, -1))  # G D/G C/G ..., transposed G C/G D/G ...
    summed = apart.sum(2).flatten(0, 1)[:, None] if transposed else apart.sum(1)
    inputs = active.double()[None]
    met = torch.convolution(inputs, summed, None, stride, padding, dilation, transposed, output_padding, groups)
    return float(met.sum())


def _are_spikes(x: Tensor) -> bool:
    """Whether x holds zeros and otherwise one value up to its sign."""
    low, high = (float(edge) for edge in x.aminmax())
    size = max(-low, high)
    one = x == size if low >= 0 else (x == size) | (x == -size)
    return size == 0 or bool((one == (x != 0)).all())


def _layer(parameter: str) -> str:
    module, _, name = parameter.partition(".parametrizations.")[0].rpartition(".")
    return (parameter.partition(".parametrizations.")[0] if ".parametrizations." in parameter else module) or name


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
