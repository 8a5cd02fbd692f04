"""Every kernel variant against its float64 reference, on the device of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(1800)]
SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_all_gates_of_all_cases(tmp_path: Path) -> None:
    build = [sys.executable, SCRIPTS / "build_gpu_kernels.py", "--out", tmp_path]
    subprocess.run(build, check=True)
    library = tmp_path / "libkernels.so"
    check = [sys.executable, SCRIPTS / "gpu_kernels.py", "--library", library, "--out", tmp_path]
    done = subprocess.run([*check, "--no-time"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    results = json.loads((tmp_path / "gpu_kernels.json").read_text(encoding="utf-8"))["results"]
    assert any(result.get("gates") for result in results)
