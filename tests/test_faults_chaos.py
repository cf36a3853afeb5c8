"""A sweep of which random processes are killed, as `scripts/chaos.py` does it at any length."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "chaos.py"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_random_kills_lose_and_change_nothing():
    kills = ["--kills", "2", "--seed", "1", "--kinds", "driver,trial,raylet"]
    result = subprocess.run([sys.executable, str(SCRIPT), *kills], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("kill ") >= 2
    assert "same records and weights, nothing twice" in result.stdout
