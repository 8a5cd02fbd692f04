"""Greedy text of two plans of one model: do they choose the same tokens where the choice is clear?

The first plan writes each continuation; the second is fed the same tokens, so that every position
counts, and not only those before the first difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from dsv4c.plan.plan import Plan
from dsv4c.tokenizer import Tokenizer

# Logits of two plans differ by roundings that a routed or a selected entry may amplify.
MARGIN = 0.5

PROMPTS = (
    "Now the word of the LORD came unto",
    "In the beginning God created",
    "And it came to pass in those days, that",
    "Blessed are they which",
    "And Moses said unto the children of Israel,",
    "The LORD is my shepherd;",
    "Then answered Jesus and said unto them,",
    "And David said to Abner,",
    "Woe unto you, scribes and Pharisees,",
    "These are the generations of",
    "def main(args):\n",
    "import os\nimport sys\n\n",
    "class Error(Exception):\n    ",
    "    def __init__(self, name, value):\n        self.",
    "for i in range(len(",
    "if __name__ == '__main__':\n",
    "    try:\n        return ",
    "hacker: n. [originally, someone who",
    "bug: n. An unwanted and",
    "This term is used by",
)


@dataclass(frozen=True, slots=True)
class Position:
    """One choice: the token of each plan, the first plan's top-2 margin, the largest difference."""

    prompt: int
    first: int
    second: int
    margin: float
    difference: float


def compare(first: Plan, second: Plan, tokens: int) -> Iterator[Position]:
    """Choices of both plans along the first plan's greedy continuations of `PROMPTS`.

    Args:
        first: writes the text.
        second: is fed that text.
        tokens: new tokens per prompt.
    """
    tokenizer = Tokenizer.load(first.path)
    for number, prompt in enumerate(PROMPTS):
        ids = tokenizer.encode(prompt)
        sessions = [
            plan.session(max_sequences=1, max_tokens=len(ids) + tokens) for plan in (first, second)
        ]
        slots = [session.open() for session in sessions]
        logits = [s.prefill(slot, ids)[0] for s, slot in zip(sessions, slots, strict=True)]
        for _ in range(tokens):
            best = logits[0].topk(2).values
            chosen = [int(one.argmax()) for one in logits]
            gap = float((logits[0] - logits[1]).abs().max())
            yield Position(number, chosen[0], chosen[1], float(best[0] - best[1]), gap)
            logits = [
                s.decode([slot], [chosen[0]])[0] for s, slot in zip(sessions, slots, strict=True)
            ]


def summary(positions: list[Position]) -> dict[str, float]:
    """Counts and sizes for a table."""
    clear = [one for one in positions if one.margin > MARGIN]
    gaps = torch.tensor([one.difference for one in positions])
    return {
        "positions": len(positions),
        "equal": sum(one.first == one.second for one in positions),
        "clear": len(clear),
        "clear_equal": sum(one.first == one.second for one in clear),
        "largest_margin_of_a_difference": max(
            (one.margin for one in positions if one.first != one.second), default=0.0
        ),
        "logit_difference_median": float(gaps.median()),
        "logit_difference_max": float(gaps.max()),
    }
