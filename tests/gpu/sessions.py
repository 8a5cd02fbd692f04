"""Sessions of checks of whole steps, and what is compared of them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from dsv4c.plan.plan import Plan
from dsv4c.runtime.session import Session

LENGTHS = (3, 127, 130, 250, 40)


def tokens(plan: Plan, count: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(plan.manifest.model.vocab_size) for _ in range(count)]


def filled(plan: Plan, lengths: Sequence[int], poison: int | None = None) -> Session:
    """A session with sequences of these lengths in slots 0, 1, ..."""
    session = plan.session(max_sequences=8, max_tokens=2048, poison=poison)
    for seed, length in enumerate(lengths):
        session.prefill(session.open(), tokens(plan, length, seed))
    return session


def eager(session: Session) -> Session:
    """The same session without its graphs."""
    session.decoder._graphs.clear()  # pyright: ignore[reportPrivateUsage]
    return session


def steps(session: Session, count: int = 4) -> torch.Tensor:
    """Logits of decode steps of every open slot, [steps, slots, vocab]."""
    slots = sorted(session.slots.lengths)
    made = [session.decode(slots, [7 * i + slot for slot in slots]) for i in range(count)]
    return torch.stack(made)


def states(session: Session) -> dict[str, torch.Tensor]:
    """All states but the null page, as bytes."""
    return {
        name: one.buffer[getattr(one.type, "ring", 1) == 0 :].clone()
        for name, one in session.executor.states.items()
    }


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
