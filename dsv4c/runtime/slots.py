"""Sequences of a session: slots, their lengths and their pages in the block table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dsv4c.errors import DsvError
from dsv4c.models.deepseek_v4.build import PAGE_TOKENS


def pages_for(tokens: int) -> int:
    """Pages that hold so many tokens of one sequence."""
    return -(-tokens // PAGE_TOKENS)


@dataclass
class SlotTable:
    """Hands out slots and pages of 128 tokens; one block table serves every layer.

    Page 0 is nobody's: it stands where a sequence has no page.

    Args:
        max_sequences: slots.
        max_tokens: context limit of one sequence, in tokens.

    Attributes:
        version: another one whenever the block table has changed.
        longest: pages of the longest sequence of the last `advance`.
    """

    max_sequences: int
    max_tokens: int

    def __post_init__(self) -> None:
        self.version = self.longest = 0
        self.pages_per_slot = pages_for(self.max_tokens)
        self.pages = 1 + self.max_sequences * self.pages_per_slot
        self.block_table = np.zeros((self.max_sequences, self.pages_per_slot), np.int32)
        self._free_pages = list(range(self.pages - 1, 0, -1))
        self._held: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}
        # While a batch advances: its slots, their last positions, steps left before pages or room
        # have to be looked at. Whoever asks for `lengths` ends that.
        self._batch: tuple[int, ...] | None = None
        self._positions = np.zeros(0, np.int32)
        self._left = 0

    @property
    def lengths(self) -> dict[int, int]:
        """Tokens of each open slot, until the next `advance`."""
        if self._batch is not None:
            self._lengths.update(zip(self._batch, (self._positions + 1).tolist(), strict=True))
            self._batch = None
        return self._lengths

    def open(self) -> int:
        """A free slot, of length 0. Raises DsvError DSV243 if all are in use."""
        free = [slot for slot in range(self.max_sequences) if slot not in self.lengths]
        if not free:
            raise DsvError(
                "DSV243",
                "every slot of the session is in use",
                expected="a free slot",
                found=f"{self.max_sequences} of {self.max_sequences} open",
                hint="close a slot, or open the session with a larger max_sequences",
            )
        self.lengths[free[0]] = 0
        self._held[free[0]] = []
        return free[0]

    def close(self, slot: int) -> None:
        self.require(slot)
        self._free_pages.extend(reversed(self._held.pop(slot)))
        self.block_table[slot] = 0
        self.version += 1
        del self.lengths[slot]

    def require(self, slot: int) -> None:
        """Raise DsvError DSV243 unless the slot is open."""
        if slot not in self.lengths:
            raise DsvError(
                "DSV243",
                "the slot is not open",
                expected=f"one of {sorted(self.lengths)}" if self.lengths else "an open slot",
                found=str(slot),
                hint="session.open() returns a slot; it is valid until session.close(slot)",
            )

    def check_room(self, slot: int, tokens: int) -> None:
        """Raise DsvError DSV242 if `tokens` more do not fit the context limit."""
        length = self.lengths[slot] + tokens
        if length > self.max_tokens:
            raise DsvError(
                "DSV242",
                "the context is longer than the session's limit",
                where=f"slot {slot}",
                expected=f"at most {self.max_tokens} tokens",
                found=f"{self.lengths[slot]} + {tokens} = {length}",
                hint="open the session with a larger max_tokens",
            )

    def advance(self, slots: Sequence[int]) -> np.ndarray:
        """`grow` each slot by one token. Nothing changes on an error.

        Args:
            slots: at least one, all different.

        Returns:
            The positions of these tokens, i32; they hold until the next call.

        Raises:
            DsvError: as `require` and `check_room`.
        """
        batch = tuple(slots)
        if batch != self._batch:
            for slot in slots:
                self.require(slot)
            lengths = [self.lengths[slot] for slot in slots]
            self._positions = np.array(lengths, np.int32) - 1
            self._batch, self._left = batch, 0
        if not self._left:
            self._left = self._steps(batch)
        self._left -= 1
        self._positions += 1
        return self._positions

    def _steps(self, batch: Sequence[int]) -> int:
        """Give a batch the pages of its next tokens; how many steps these and the room last."""
        positions = self._positions + 1
        room = self.max_tokens - int(positions.max())
        if room <= 0:
            for slot in batch:
                self.check_room(slot, 1)
        used = positions % PAGE_TOKENS
        for i in np.flatnonzero(used == 0).tolist():
            self._hold(batch[i], int(positions[i]) + 1)
        self.longest = pages_for(self.max_tokens - room + 1)
        return min(room, PAGE_TOKENS - int(used.max()))

    def grow(self, slot: int, tokens: int) -> None:
        """Give the slot the pages that `tokens` more need, and advance its length."""
        lengths = self.lengths
        lengths[slot] += tokens
        self._hold(slot, lengths[slot])

    def _hold(self, slot: int, tokens: int) -> None:
        held = self._held[slot]
        while len(held) * PAGE_TOKENS < tokens:
            page = self._free_pages.pop()
            self.block_table[slot, len(held)] = page
            held.append(page)
            self.version += 1
