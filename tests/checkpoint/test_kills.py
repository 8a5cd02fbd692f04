"""A few runs of `dsv4c quantize` killed at random moments; scripts/kills.py does a hundred."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import flavours
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kills.py"


@pytest.mark.slow
def test_killed_runs_leave_all_or_nothing(tmp_path: Path) -> None:
    model, out = flavours.bf16(tmp_path / "model"), tmp_path / "made" / "out"
    command = ["quantize", str(model), str(out)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--times", "8", str(out), "--", *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "8 kills in runs of" in done.stdout
    assert "left beside the output: nothing" in done.stdout
    assert list(out.parent.iterdir()) == []
