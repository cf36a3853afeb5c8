import subprocess
import sys

import pytest
import torch

from harness.data import threads


def test_starting_numbas_threads_leaves_torchs_as_they_were():
    pytest.importorskip("numba")
    code = "import torch; torch.set_num_threads(7); torch.rand(9); assert torch.get_num_threads() == 7; "
    code += "from harness.data import threads; assert threads.library(); assert torch.get_num_threads() == 7"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_number_of_threads_is_that_of_before_when_it_is_over():
    numba = pytest.importorskip("numba")
    before, torchs = numba.get_num_threads(), torch.get_num_threads()
    with threads.numba(1):
        assert numba.get_num_threads() == 1
        with threads.numba(10_000):
            assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
        assert numba.get_num_threads() == 1
    assert (numba.get_num_threads(), torch.get_num_threads()) == (before, torchs)
