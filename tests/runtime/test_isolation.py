"""The checks of whole steps that tests/gpu runs, on `cpu` plans."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsv4c.plan.plan import Plan

sys.path.insert(0, str(Path(__file__).parents[1] / "gpu"))
import isolation  # pyright: ignore[reportMissingImports]


@pytest.mark.parametrize("check", isolation.ANYWHERE, ids=lambda check: check.__name__)
def test_whole_steps(
    plan_for: Callable[[str], Plan], check: Callable[[Plan], dict[str, Any]]
) -> None:
    check(plan_for("fp8"))
