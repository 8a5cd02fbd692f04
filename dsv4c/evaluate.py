"""Teacher-forced evaluation: how well a plan predicts a text, in nats per token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsv4c.errors import DsvError

if TYPE_CHECKING:
    from dsv4c.runtime.session import Session


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Sums over the predicted tokens.

    Attributes:
        tokens: how many tokens were predicted.
        nats: sum of -ln p(token).
        correct: how many tokens had the highest logit.
    """

    tokens: int
    nats: float
    correct: int

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats_per_token)


def evaluate(
    session: Session,
    ids: Sequence[int],
    window: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Predict ids[1:], each from the ids before it in its window.

    Windows hold `window` predictions and start afresh: window k reads ids[k*window : (k+1)*window]
    and predicts the same range shifted by one. The last window may be shorter.

    Args:
        session: with room for one sequence of `window` tokens.
        ids: at least two token ids.
        window: predictions per window.
        progress: called after every window.

    Raises:
        DsvError: DSV241, fewer than two ids, or an id out of range.
    """
    import torch

    if len(ids) < 2:
        raise DsvError(
            "DSV241",
            "there is nothing to predict",
            expected="at least two token ids",
            found=str(len(ids)),
        )
    total = len(ids) - 1
    nats, correct = 0.0, 0
    for begin in range(0, total, window):
        end = min(begin + window, total)
        slot = session.open()
        try:
            logits = session.prefill(slot, list(ids[begin:end]), return_logits="all")
        finally:
            session.close(slot)
        targets = torch.tensor(ids[begin + 1 : end + 1], device=logits.device)
        losses = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="sum")
        nats += losses.item()
        correct += int((logits.argmax(-1) == targets).sum())
        if progress is not None:
            progress("evaluate", end, total)
    return Evaluation(total, nats, correct)
