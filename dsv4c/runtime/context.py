"""Sequences with long contexts for timing, without a prefill: caches of random values."""

from __future__ import annotations

import torch

from dsv4c.ir.types import CacheType, RowsType
from dsv4c.ir.values import State
from dsv4c.runtime.session import Session

_VALUES = 1 << 25


def fill_context(session: Session, sequences: int, context: int, seed: int = 0) -> list[int]:
    """Open slots whose sequences seem to hold `context` tokens each.

    Every entry of every cache and every partial row becomes a random normal value in its format, so
    a step moves the bytes, and selects among distinct scores, as after a prefill of random tokens.

    Args:
        session: with `sequences` free slots; what its other slots hold is overwritten.
        sequences: at least 1.
        context: tokens, at least 1 and at most the session's limit.
        seed: of the values.

    Returns:
        The slots.

    Raises:
        DsvError: DSV242 (context), DSV243 (slots).
    """
    slots = [session.open() for _ in range(sequences)]
    for slot in slots:
        session.slots.check_room(slot, context)
        session.slots.grow(slot, context)
    draw = torch.Generator(session.device).manual_seed(seed)
    for state in session.executor.states.values():
        _randomise(state, draw)
    return slots


def _randomise(state: State, draw: torch.Generator) -> None:
    type_, buffer = state.type, state.buffer
    if isinstance(type_, RowsType):
        buffer.normal_(generator=draw)
        return
    assert isinstance(type_, CacheType)
    layout, count = type_.layout, len(buffer) * type_.layout.page
    step = max(1, _VALUES // layout.width)
    for first in range(0, count, step):
        index = torch.arange(first, min(count, first + step), device=buffer.device)
        values = torch.empty(len(index), layout.width, device=buffer.device)
        layout.insert(buffer, layout.encode(values.normal_(generator=draw)), index)
