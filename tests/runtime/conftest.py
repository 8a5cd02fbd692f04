"""One small model, compiled once in each mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small
import torch

import dsv4c
from dsv4c.plan.plan import Plan

DTYPES = {"f32": "float32", "bf16": "bfloat16", "fp8": "bfloat16"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_small(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="session")
def plan_for(model: Path) -> Callable[[str], Plan]:
    """The plan with a kv_cache of `f32` (float32 activations: exact mode), `bf16` or `fp8`."""
    plans: dict[str, Plan] = {}

    def get(kv_cache: str) -> Plan:
        if kv_cache not in plans:
            out = model.parent / kv_cache
            plans[kv_cache] = dsv4c.compile(model, out, dtype=DTYPES[kv_cache], kv_cache=kv_cache)
        return plans[kv_cache]

    return get


@pytest.fixture(scope="session")
def plan(plan_for: Callable[[str], Plan]) -> Plan:
    """Exact mode."""
    return plan_for("f32")


@pytest.fixture(scope="session")
def tokens() -> Callable[[int, int], list[int]]:
    """(count, seed) -> random token ids."""

    def make(count: int, seed: int = 0) -> list[int]:
        draw = torch.Generator().manual_seed(seed)
        return torch.randint(2, small.VOCAB, (count,), generator=draw).tolist()

    return make
