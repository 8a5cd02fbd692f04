"""Slots and pages: no page has two owners, and all come back."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest
import torch

from dsv4c.errors import DsvError
from dsv4c.runtime.batch import (
    Rows,
    Sizes,
    StepInputs,
    TokenBatch,
    bucket,
    buckets,
    columns,
)
from dsv4c.runtime.sampling import Sampling
from dsv4c.runtime.slots import SlotTable, pages_for

CPU = torch.device("cpu")


def owned(table: SlotTable) -> list[int]:
    """Pages of all open slots, as the block table says."""
    return [
        int(page)
        for slot, length in table.lengths.items()
        for page in table.block_table[slot, : pages_for(length)]
    ]


def test_pages_for_edges() -> None:
    assert [pages_for(n) for n in (1, 127, 128, 129, 256, 257)] == [1, 1, 1, 2, 2, 3]


def test_pages_are_given_when_they_are_needed() -> None:
    table = SlotTable(2, 300)
    assert (table.pages_per_slot, table.pages) == (3, 7)
    slot = table.open()
    held: list[int] = []
    for tokens in (127, 1, 1, 127, 44):
        table.grow(slot, tokens)
        held.append(len(owned(table)))
    assert held == [1, 1, 2, 2, 3]
    assert table.lengths == {slot: 300}


def test_no_page_has_two_owners_and_all_come_back() -> None:
    table, draw = SlotTable(4, 1000), random.Random(0)
    for _ in range(500):
        if table.lengths and draw.random() < 0.3:
            table.close(draw.choice(list(table.lengths)))
        elif len(table.lengths) < 4 and draw.random() < 0.4:
            table.open()
        elif table.lengths:
            slot = draw.choice(list(table.lengths))
            room = 1000 - table.lengths[slot]
            table.grow(slot, draw.randint(0, min(room, 300)))
        pages = owned(table)
        assert len(set(pages)) == len(pages)
        assert all(0 < page < table.pages for page in pages)
    for slot in list(table.lengths):
        table.close(slot)
    for _ in range(4):
        table.grow(table.open(), 1000)
    assert sorted(owned(table)) == list(range(1, table.pages))


HOT = Sampling(0.5, 40, 0.75, seed=(1 << 63) + 3)
BATCH = [Rows(2, 10, [7, 8, 9], 1, HOT), Rows(0, 0, [5], 0, HOT), Rows(1, 127, [3, 4], 2)]
COLUMNS = {
    "ids": [7, 8, 9, 5, 3, 4],
    "pos": [10, 11, 12, 0, 127, 128],
    "slot": [2, 2, 2, 0, 1, 1],
    "start": [0, 0, 0, 3, 4, 4],
    "out_rows": [2, 4, 5],
    "temperature": [0.5, 0.0, 0.0],
    "top_k": [40, 0, 0],
    "top_p": [0.75, 1.0, 1.0],
    "seed": [3, -(1 << 31), 0, 0, 0, 0],
    "next_pos": [13, 128, 129],
}


def test_rows_of_a_ragged_batch() -> None:
    assert columns(BATCH) == COLUMNS


def test_padded_rows_come_last() -> None:
    assert columns([Rows(3, 9, [5], 1, HOT)], 3) == {
        "ids": [5, 0, 0],
        "pos": [9, 0, 0],
        "slot": [3, -1, -1],
        "start": [0, 1, 2],
        "out_rows": [0, 1, 2],
        "temperature": [0.5, 0.0, 0.0],
        "top_k": [40, 0, 0],
        "top_p": [0.75, 1.0, 1.0],
        "seed": [3, -(1 << 31), 0, 0, 0, 0],
        "next_pos": [10, 1, 1],
    }


def test_buckets() -> None:
    assert [bucket(n, 12) for n in (1, 2, 3, 4, 5, 8, 9, 12)] == [1, 2, 4, 4, 8, 8, 12, 12]
    assert buckets(1, 12) == [1, 2, 4, 8, 12]
    assert buckets(8, 12) == [8, 12]
    assert buckets(8, 3) == [3]
    assert buckets(1, 1) == [1]


def test_inputs_are_staged_and_copied() -> None:
    inputs = StepInputs(Sizes(8, 8, 3, 5), CPU)
    table = np.arange(15, dtype=np.int32).reshape(3, 5)
    for sizes in (Sizes(6, 3, 3, 5), Sizes(6, 3, 3, 2)):
        inputs.stage(sizes, COLUMNS, table)
        host, device = inputs.copies(sizes)
        device.copy_(host)
        views = inputs.views(sizes)
        floats = {name for name, tensor in views.items() if tensor.dtype == torch.float32}
        assert floats == {"temperature", "top_p"}
        assert views.pop("block_table").tolist() == table[:, : sizes.P].tolist()
        found = {name: tensor.tolist() for name, tensor in views.items()}
        assert found == {**COLUMNS, "seed": [[3, -(1 << 31)], [0, 0], [0, 0]]}
        assert all(tensor.data_ptr() % 64 == 0 for tensor in views.values())


def test_tokens_are_staged_like_their_rows() -> None:
    """Whatever was staged before: the same sequences, others, other sizes, a prefill."""
    kept, fresh = StepInputs(Sizes(8, 8, 3, 5), CPU), StepInputs(Sizes(8, 8, 3, 5), CPU)
    table = np.arange(15, dtype=np.int32).reshape(3, 5)
    small, large = Sizes(2, 2, 3, 2), Sizes(4, 4, 3, 5)
    for sizes, slots, drawn in (
        (small, (2, 0), (HOT, HOT)),
        (small, (2, 0), (HOT, HOT)),
        (small, (0, 2), (HOT, HOT)),
        (small, (0,), (HOT,)),
        (small, (0,), (Sampling(),)),
        (large, (0, 2, 1), (Sampling(), HOT, HOT)),
        (large, (0, 2, 1), (Sampling(), HOT, HOT)),
    ):
        for position in (7, 8):
            batch = TokenBatch(
                slots, [position + slot for slot in slots], [position] * len(slots), drawn
            )
            kept.stage_tokens(sizes, batch, table)
            fresh.stage(sizes, columns(batch.rows(), sizes.T), table)
            assert torch.equal(kept.copies(sizes)[0], fresh.copies(sizes)[0])
            table = table[::-1] + position
        kept.stage(sizes, columns([], sizes.T), table)
        fresh.stage(sizes, columns([], sizes.T), table)


def test_a_block_table_that_has_not_changed_is_not_staged_again() -> None:
    inputs, sizes = StepInputs(Sizes(8, 8, 3, 5), CPU), Sizes(2, 2, 3, 2)
    batch = TokenBatch((2, 0), [7, 9], [1, 1], (HOT, HOT), version=4)
    found: list[int] = []
    for fill, version in enumerate((4, 4, 5, 5, None, None, 4)):
        table = np.full((3, 5), fill, np.int32)
        inputs.stage_tokens(sizes, batch._replace(version=version), table)
        inputs.copies(sizes)[1].copy_(inputs.copies(sizes)[0])
        (staged,) = set(inputs.views(sizes)["block_table"].flatten().tolist())
        found.append(staged)
    assert found == [0, 0, 2, 2, 4, 5, 6]


def test_slots_advance_together_or_not_at_all() -> None:
    table, other = SlotTable(3, 256), SlotTable(3, 256)
    for length in (127, 128, 0):
        slot = table.open()
        other.open()
        table.grow(slot, length)
        other.grow(slot, length)
    assert table.advance([1, 0, 2]).tolist() == [128, 127, 0]
    for slot in (1, 0, 2):
        other.grow(slot, 1)
    assert table.lengths == other.lengths
    assert table.block_table.tolist() == other.block_table.tolist()
    table.grow(0, 128)
    before = dict(table.lengths)
    for slots, code in (([1, 0], "DSV242"), ([1, 5], "DSV243")):
        with pytest.raises(DsvError, match=code):
            table.advance(slots)
        assert table.lengths == before


def test_a_batch_that_advances_is_a_batch_that_grows() -> None:
    """Whatever happens between its steps: other batches, prefills, slots closed and opened."""
    table, other, draw = SlotTable(4, 700), SlotTable(4, 700), random.Random(1)
    for each in (table, other):
        for slot in range(4):
            each.grow(each.open(), 40 * slot)
    for _ in range(150):
        batch = draw.sample(range(4), draw.randint(1, 4))
        for _ in range(draw.choice((1, 3, 60))):
            positions = [other.lengths[slot] for slot in batch]
            if max(positions) == 700:
                with pytest.raises(DsvError, match="DSV242"):
                    table.advance(batch)
                break
            version, before = table.version, table.block_table.copy()
            assert table.advance(batch).tolist() == positions
            for slot in batch:
                other.grow(slot, 1)
            assert table.longest == max(pages_for(position + 1) for position in positions)
            assert (table.version == version) == np.array_equal(table.block_table, before)
        assert table.lengths == other.lengths
        full = [slot for slot in batch if table.lengths[slot] > 600]
        for each, slot in product((table, other), full):
            each.close(slot)
            assert each.open() == slot
        assert owned(table) == owned(other)
