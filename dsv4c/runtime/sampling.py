"""Choosing the next token from logits, by the rules that the kernel `sample` has too."""

from __future__ import annotations

from dataclasses import dataclass
from secrets import randbits

import torch

from dsv4c.errors import DsvError
from dsv4c.ir.ops.sample import sample_row


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of a sequence are chosen.

    Attributes:
        temperature: 0 for the most likely token.
        top_p: the fewest most likely tokens that reach this probability; 1 for all.
        seed: 64 bits; equal seeds give equal text, on every target.
    """

    temperature: float
    top_p: float
    seed: int

    @classmethod
    def checked(cls, temperature: float, top_p: float, seed: int | None) -> Sampling:
        """A drawn seed for None. Raises DsvError DSV101 on values without a meaning."""
        for name, value, ok, expected in (
            ("temperature", temperature, 0 <= temperature < float("inf"), "0 or more"),
            ("top_p", top_p, 0 < top_p <= 1, "above 0, at most 1"),
            ("seed", seed, seed is None or 0 <= seed < 1 << 64, "0 to 2^64 - 1"),
        ):
            if not ok:
                raise DsvError(
                    "DSV101", f"{name} is out of range", expected=expected, found=str(value)
                )
        return cls(temperature, top_p, randbits(64) if seed is None else seed)

    def choose(self, logits: torch.Tensor, position: int) -> int:
        """One token id from f32 logits [vocab], for the token at `position` of its sequence."""
        seed = [self.seed & 0xFFFFFFFF, self.seed >> 32]
        return sample_row(logits, self.temperature, 0, self.top_p, seed, position)
