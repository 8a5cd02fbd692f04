"""The ways in which a session can be given the same tokens; each returns logits of every position."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from dsv4c.plan.plan import Plan
from dsv4c.runtime.batch import Rows


def in_parts(plan: Plan, ids: Sequence[int], parts: Sequence[int]) -> torch.Tensor:
    """Prefill in parts of these lengths."""
    assert sum(parts) == len(ids)
    session = plan.session(max_sequences=1, max_tokens=len(ids))
    slot, begin = session.open(), 0
    logits: list[torch.Tensor] = []
    for part in parts:
        logits.append(session.prefill(slot, ids[begin : begin + part], return_logits="all"))
        begin += part
    return torch.cat(logits)


def random_parts(total: int, seed: int) -> list[int]:
    """Lengths that add up to `total`, of every size around the windows of 4 and 128 tokens."""
    draw, parts = random.Random(seed), list[int]()
    while (left := total - sum(parts)) > 0:
        parts.append(min(draw.choice((1, 2, 3, 4, 5, 31, 64, 127, 128, 129)), left))
    return parts


def one_by_one(plan: Plan, ids: Sequence[int], prompt: int = 1) -> torch.Tensor:
    """Prefill of the first `prompt` tokens, then decode."""
    session = plan.session(max_sequences=1, max_tokens=len(ids))
    slot = session.open()
    logits = [session.prefill(slot, ids[:prompt], return_logits="all")]
    logits += [session.decode([slot], [token]) for token in ids[prompt:]]
    return torch.cat(logits)


def in_batch(
    plan: Plan, sequences: Sequence[Sequence[int]], prompts: Sequence[int]
) -> list[torch.Tensor]:
    """One ragged step over all prompts, then decode of whichever sequences have tokens left."""
    longest = max(len(ids) for ids in sequences)
    session = plan.session(max_sequences=len(sequences), max_tokens=longest)
    slots = [session.open() for _ in sequences]
    batch = [
        Rows(slot, 0, list(ids[:n]), n)
        for slot, ids, n in zip(slots, sequences, prompts, strict=True)
    ]
    logits = [[part] for part in session.step(batch).split(list(prompts))]
    for step in range(longest):
        live = [i for i, n in enumerate(prompts) if n + step < len(sequences[i])]
        if not live:
            break
        tokens = [sequences[i][prompts[i] + step] for i in live]
        rows = session.decode([slots[i] for i in live], tokens)
        for i, row in zip(live, rows, strict=True):
            logits[i].append(row[None])
    return [torch.cat(parts) for parts in logits]
