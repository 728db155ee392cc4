"""The short version of scripts/chaos.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "chaos.py"


@pytest.mark.slow
def test_a_killed_run_ends_as_an_undisturbed_one() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "2", "--seed", "1"], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "weights, optimiser and metrics.csv are those of the undisturbed run" in done.stdout
