"""The weights of one trained network in another: by name, and completely."""

from collections.abc import Collection, Mapping

from torch import Tensor, nn


def load(net: nn.Module, weights: Mapping[str, Tensor], *, own: Collection[str] = ()) -> None:
    """Load every parameter and buffer of `weights` into `net`, which keeps those of its entries that `own` names.

    Raises ValueError that names every entry, on either side, without a counterpart of the same shape.
    """
    wanted = {name: tensor for name, tensor in net.state_dict().items() if name not in own}
    complaints = {
        "missing in the given weights": [name for name in wanted if name not in weights],
        "unknown to the network": [name for name in weights if name not in wanted],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} for {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in weights and weights[name].shape != tensor.shape
        ],
    }
    if any(complaints.values()):
        raise ValueError("; ".join(f"{what}: {', '.join(names)}" for what, names in complaints.items() if names))
    net.load_state_dict(dict(weights), strict=False)
