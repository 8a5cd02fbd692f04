"""Choosing the next token from logits."""

from __future__ import annotations

import torch

from dsv4c.errors import DsvError


def check_sampling(temperature: float, top_p: float) -> None:
    """Raise DsvError DSV101 on values without a meaning."""
    for name, value, ok in (
        ("temperature", temperature, 0 <= temperature < float("inf")),
        ("top_p", top_p, 0 < top_p <= 1),
    ):
        if not ok:
            expected = "0 or more" if name == "temperature" else "above 0, at most 1"
            raise DsvError("DSV101", f"{name} is out of range", expected=expected, found=str(value))


def sample(
    logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator
) -> int:
    """One token id from f32 logits [vocab].

    Temperature 0 takes the largest logit, the lowest id of equal ones. Else nucleus sampling: from
    the smallest set of tokens whose probability reaches `top_p`.
    """
    if temperature == 0:
        return int((logits == logits.max()).nonzero()[0])
    probs, order = (
        (logits.double().cpu() / temperature).softmax(-1).sort(descending=True, stable=True)
    )
    before = probs.cumsum(-1) - probs
    kept = torch.where(before < top_p, probs, 0.0)
    return int(order[torch.multinomial(kept, 1, generator=generator)])
