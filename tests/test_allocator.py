"""What a process holds after it has freed a large block."""

import subprocess
import sys

import pytest

HELD = """
import os
from pathlib import Path
import torch
from harness import allocator

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

torch.ones(2**24), held()  # whatever a first tensor brings with it
before = held()
kept = allocator.keep_memory() if {keep} else None
block = torch.ones(2**26)
del block
after = held()
allocator.give_back()
print(kept, after - before, held() - before)
"""


def mebibytes_held(*, keep: bool) -> tuple[str, float, float]:
    """Whether memory is kept; what is held of 256 MiB after they were freed, and after they were given back."""
    run = subprocess.run(
        [sys.executable, "-c", HELD.format(keep=keep)], check=True, capture_output=True, text=True
    )  # fmt: skip
    kept, freed, given_back = run.stdout.split()
    return kept, float(freed), float(given_back)


def test_freed_memory_is_kept_and_can_be_given_back():
    kept, freed, given_back = mebibytes_held(keep=True)
    if kept == "False":
        pytest.skip("another C library than glibc")
    assert freed > 200
    assert given_back < 50


def test_without_it_freed_memory_returns_to_the_system():
    _, freed, _ = mebibytes_held(keep=False)
    assert freed < 50
