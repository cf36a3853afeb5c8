"""Imports torchvision also where its wheel was built for CUDA and torch was not, as on PyPI for a CPU-only machine."""

import importlib
import sys
from functools import cache
from types import ModuleType

import torch


def load(module: str = "torchvision") -> ModuleType:
    """Import torchvision or one of its modules.

    Where the compiled part of torchvision cannot be loaded, datasets, models and PIL transforms work all the same;
    `torchvision.ops.nms` and `torchvision.io` do not.
    """
    try:
        return importlib.import_module(module)
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _missing_operators()
    return importlib.import_module(module)


@cache
def _missing_operators() -> torch.library.Library:
    """Declare the operators that torchvision registers shapes for; they vanish when the library object does.

    Only after an import has failed: where torchvision is right, its own declaration would come second and be refused.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
