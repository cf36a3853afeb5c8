"""How a check says what it found and what the contract says."""

import torch
from torch import Tensor

EXACT = 1e-9
"""Tolerance for two ways to the same number in float64: rounding, and no more."""


def expect(fact: bool | Tensor, complaint: str) -> None:
    """Raise AssertionError with the complaint where the fact does not hold; unlike `assert`, under `python -O` too."""
    if not fact:
        raise AssertionError(complaint)


def expect_close(found: Tensor, expected: Tensor, complaint: str, *, tolerance: float = EXACT) -> None:
    """Both agree within the tolerance, relative and absolute."""
    torch.testing.assert_close(
        found, expected, rtol=tolerance, atol=tolerance, msg=lambda about: f"{complaint}\n{about}"
    )  # fmt: skip


def expect_equal(found: Tensor, expected: Tensor, complaint: str) -> None:
    """Both have the same bits."""
    expect_close(found, expected, complaint, tolerance=0)
