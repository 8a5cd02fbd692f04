"""How the tokens of a sequence are drawn; the rules are those of the op `sample`."""

from __future__ import annotations

from dataclasses import dataclass

from dsv4c.errors import DsvError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of a sequence are drawn.

    Attributes:
        temperature: 0 for the most likely token.
        top_k: the so many most likely tokens; 0 for all.
        top_p: of these the fewest most likely that reach this probability; 1 for all.
        seed: 64 bits; equal seeds draw equal tokens from equal logits, on every target.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise DsvError DSV101 on values without a meaning."""
        for name, ok, expected in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_k", 0 <= self.top_k < 1 << 31, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("seed", 0 <= self.seed < 1 << 64, "0 to 2^64 - 1"),
        ):
            if not ok:
                found = str(getattr(self, name))
                raise DsvError("DSV101", f"{name} is out of range", expected=expected, found=found)

    @property
    def words(self) -> tuple[int, int]:
        """The low and the high word of the seed, as i32."""
        low, high = self.seed & 0xFFFFFFFF, self.seed >> 32
        return low - (low >> 31 << 32), high - (high >> 31 << 32)


GREEDY = Sampling()
