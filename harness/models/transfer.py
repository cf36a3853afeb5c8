"""Takes a network's weights over into another one of the same architecture, completely or not at all."""

from collections.abc import Collection, Mapping

from torch import Tensor, nn


def load(net: nn.Module, weights: Mapping[str, Tensor], *, fresh: Collection[str] = ()) -> None:
    """Copy every entry of a state dict into the network's entry of the same name.

    `fresh` names entries of the network that may be missing in `weights` and then stay as they are. Raises ValueError
    that names all other entries which have no counterpart, or one of another shape; then nothing was copied.
    """
    own = net.state_dict()
    problems = {
        "the starting weights lack": [name for name in own if name not in weights and name not in fresh],
        "the network has no place for": [name for name in weights if name not in own],
        "shapes differ for": [
            f"{name} {tuple(weights[name].shape)} -> {tuple(value.shape)}"
            for name, value in own.items()
            if name in weights and weights[name].shape != value.shape
        ],
    }
    found = [f"{what} {', '.join(names)}" for what, names in problems.items() if names]
    if found:
        raise ValueError("; ".join(found))
    net.load_state_dict(weights, strict=False)
