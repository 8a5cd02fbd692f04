"""The compressor's pool: whole sequences, chunks, single steps and ragged batches agree with the text.

The expected entries follow deepseek-v4.md 3.4 from all tokens of a sequence at once.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest
import torch

from dsv4c.ir.op import OPS
from dsv4c.ir.types import RowsType, WeightType
from dsv4c.ir.values import CONTEXTS, State, Weight

WIDTH = 3
RATIOS = (4, 128)
Step = list[tuple[int, int]]  # (slot, tokens) of each sequence in the step


@dataclass
class Compressor:
    """One compressor with inputs for three sequences; `step` feeds some of their tokens.

    Attributes:
        ratio: 4 (overlapping windows) or 128.
        length: tokens of each sequence.
    """

    ratio: int
    length: int

    def __post_init__(self) -> None:
        self.overlap = 2 if self.ratio == 4 else 1
        columns = self.overlap * WIDTH
        generator = torch.Generator().manual_seed(self.ratio)
        self.kv = torch.randn(3, self.length, columns, generator=generator)
        self.gate = torch.randn(3, self.length, columns, generator=generator)
        ape = torch.randn(self.ratio, columns, generator=generator)
        self.ape = Weight(WeightType("f32", tuple(ape.shape)), (ape,))
        self.total = self.overlap * self.ratio
        self.rows = State.allocate(RowsType(self.total, 2 * columns), {"S": 3}, "cpu")
        self.done = [0, 0, 0]

    def entry(self, slot: int, w: int) -> list[float]:
        """Channels of entry w: softmax over the rows of its window or windows."""
        ape = self.ape.components[0]
        found: list[float] = []
        for channel in range(WIDTH):
            terms: list[tuple[float, float]] = []
            for p in range(self.ratio * (w - self.overlap + 1), self.ratio * (w + 1)):
                if p < 0:
                    continue
                previous = p < self.ratio * w
                column = channel if previous or self.overlap == 1 else WIDTH + channel
                z = float(self.gate[slot, p, column]) + float(ape[p % self.ratio, column])
                terms.append((math.exp(z), float(self.kv[slot, p, column])))
            found.append(sum(z * v for z, v in terms) / sum(z for z, _ in terms))
        return found

    def step(self, batch: Step, padding: int = 0) -> dict[tuple[int, int], list[float]]:
        """Feed tokens; the pooled entries at tokens that end a window, by (slot, entry)."""
        columns: list[tuple[int, int, int]] = []  # slot, position, start
        for slot, tokens in batch:
            first = len(columns)
            columns += [(slot, self.done[slot] + i, first) for i in range(tokens)]
            self.done[slot] += tokens
        real = len(columns)
        columns += [(-1, 0, 0)] * padding
        slots, pos, start = (
            torch.tensor(part, dtype=torch.int32) for part in zip(*columns, strict=True)
        )
        kv, gate = (x[slots.long(), pos.long()] for x in (self.kv, self.gate))
        pooled = OPS["compress_pool"].reference(
            CONTEXTS["exact"], self.rows, kv, gate, self.ape, pos, slots, start,
            ratio=self.ratio, width=WIDTH,
        )  # fmt: skip
        assert isinstance(pooled, torch.Tensor)
        ends = {
            (slot, p // self.ratio): pooled[t].tolist()
            for t, (slot, p, _) in enumerate(columns[:real])
            if p % self.ratio == self.ratio - 1
        }
        assert int((pooled != 0).any(-1).sum()) == len(ends), "other rows are zero"
        return ends

    def check(self, found: dict[tuple[int, int], list[float]]) -> None:
        for (slot, w), values in found.items():
            assert values == pytest.approx(self.entry(slot, w), rel=1e-6, abs=1e-6), (slot, w)

    def check_rows(self) -> None:
        """The state holds the last rows of each sequence, position p at row p mod rows."""
        half = self.kv.shape[-1]
        for slot, done in enumerate(self.done):
            for p in range(max(0, done - self.total), done):
                row = self.rows.buffer[slot, p % self.total]
                ape = self.ape.components[0][p % self.ratio]
                assert torch.equal(row[:half], self.kv[slot, p])
                torch.testing.assert_close(row[half:], self.gate[slot, p] + ape, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("cut", [0, -1, 1])
def test_whole_prefill_at_the_edges_of_windows(ratio: int, cut: int) -> None:
    one = Compressor(ratio, 3 * ratio + 2)
    found = one.step([(1, 2 * ratio + cut)])
    assert len(found) == (2 * ratio + cut) // ratio
    one.check(found)
    one.check_rows()


@pytest.mark.parametrize("ratio", RATIOS)
def test_single_steps(ratio: int) -> None:
    one = Compressor(ratio, 2 * ratio + 3)
    found: dict[tuple[int, int], list[float]] = {}
    for _ in range(one.length):
        found |= one.step([(0, 1)])
    assert len(found) == 2
    one.check(found)
    one.check_rows()


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("seed", range(4))
def test_ragged_chunks_of_several_sequences(ratio: int, seed: int) -> None:
    """Random chunks, some longer than the state, in changing orders, with padded rows."""
    one, choose = Compressor(ratio, 3 * ratio + 5), random.Random(seed)
    found: dict[tuple[int, int], list[float]] = {}
    while min(one.done) < one.length:
        batch: Step = []
        for slot in choose.sample(range(3), 3):
            left = one.length - one.done[slot]
            tokens = choose.choice([0, 1, 2, ratio // 2, ratio - 1, ratio, 2 * ratio + 1])
            if min(tokens, left):
                batch.append((slot, min(tokens, left)))
        if batch:
            found |= one.step(batch, padding=choose.choice([0, 0, 3, 2 * ratio]))
            one.check_rows()
    assert len(found) == 3 * (one.length // ratio)
    one.check(found)


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_padded_row_does_not_look_like_a_later_token(ratio: int) -> None:
    """Padding as far behind a sequence's rows as the state is long."""
    one = Compressor(ratio, ratio)
    one.step([(0, ratio - 1)], padding=2 * one.total)
    one.check_rows()
    one.check(one.step([(0, 1)], padding=one.total))


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_new_sequence_ignores_what_the_slot_held(ratio: int) -> None:
    one = Compressor(ratio, 2 * ratio)
    one.rows.buffer.fill_(torch.nan)
    found = one.step([(2, ratio // 2)]) | one.step([(2, ratio)])
    assert list(found) == [(2, 0)]
    one.check(found)


def test_nothing_but_padding_changes_nothing() -> None:
    one = Compressor(4, 8)
    before = one.rows.buffer.clone()
    assert one.step([], padding=3) == {}
    assert torch.equal(one.rows.buffer, before)
