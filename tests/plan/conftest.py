"""A small checkpoint and its plan; tests that harm a plan take a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import small

import dsv4c


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_small(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="session")
def compiled(model: Path) -> Path:
    """A plan in exact mode; not to be changed."""
    return dsv4c.compile(model, model.parent / "plan", dtype="float32", kv_cache="f32").path


@pytest.fixture
def plan(compiled: Path, tmp_path: Path) -> Path:
    """A copy of the plan."""
    return Path(shutil.copytree(compiled, tmp_path / "plan"))
