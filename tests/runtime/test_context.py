"""Contexts that were never prefilled: what lies in the caches is random, valid and repeatable."""

from __future__ import annotations

import pytest
import torch

from dsv4c.errors import DsvError
from dsv4c.ir.types import CacheType
from dsv4c.plan.plan import Plan
from dsv4c.runtime.context import fill_context


def test_every_entry_is_a_normal_value(plan: Plan) -> None:
    session = plan.session(max_sequences=2, max_tokens=512)
    slots = fill_context(session, 2, 300)
    assert [session.length(slot) for slot in slots] == [300, 300]
    assert (session.slots.block_table[:, :3] > 0).all()
    for state in session.executor.states.values():
        values = state.buffer
        if isinstance(state.type, CacheType):
            layout = state.type.layout
            values = layout.gather(state.buffer, torch.arange(len(state.buffer) * layout.page))
        assert values.isfinite().all()
        assert abs(float(values.std()) - 1) < 0.1
    assert session.decode(slots, [5, 6]).isfinite().all()


def test_the_seed_decides(plan: Plan) -> None:
    logits: list[torch.Tensor] = []
    for seed in (0, 0, 1):
        session = plan.session(max_sequences=1, max_tokens=512)
        logits.append(session.decode(fill_context(session, 1, 200, seed), [5]))
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_beyond_the_limit(plan: Plan) -> None:
    with pytest.raises(DsvError, match="DSV242"):
        fill_context(plan.session(max_sequences=1, max_tokens=128), 1, 129)
