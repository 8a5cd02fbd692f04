"""Choosing the next token from logits."""

from __future__ import annotations

import torch

from dsv4c.errors import DsvError


def check_sampling(temperature: float, top_p: float, seed: int | None) -> None:
    """Raise DsvError DSV101 on values without a meaning."""
    for name, value, ok, expected in (
        ("temperature", temperature, 0 <= temperature < float("inf"), "0 or more"),
        ("top_p", top_p, 0 < top_p <= 1, "above 0, at most 1"),
        ("seed", seed, seed is None or 0 <= seed < 1 << 64, "0 to 2^64 - 1"),
    ):
        if not ok:
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
    logits = logits.double().cpu()
    # Relative to the largest, which a tiny temperature cannot make infinite.
    scaled = (logits - logits.max()) / temperature
    probs, order = scaled.softmax(-1).sort(descending=True, stable=True)
    before = probs.cumsum(-1) - probs
    kept = torch.where(before < top_p, probs, 0.0)
    return int(order[torch.multinomial(kept, 1, generator=generator)])
