"""Slots and pages: no page has two owners, and all come back."""

from __future__ import annotations

import random

import torch

from dsv4c.runtime.batch import Rows, step_inputs
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
    table = SlotTable(2, 300, CPU)
    assert (table.pages_per_slot, table.pages) == (3, 6)
    slot = table.open()
    held: list[int] = []
    for tokens in (127, 1, 1, 127, 44):
        table.grow(slot, tokens)
        held.append(len(owned(table)))
    assert held == [1, 1, 2, 2, 3]
    assert table.lengths == {slot: 300}


def test_no_page_has_two_owners_and_all_come_back() -> None:
    table, draw = SlotTable(4, 1000, CPU), random.Random(0)
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
        assert all(0 <= page < table.pages for page in pages)
    for slot in list(table.lengths):
        table.close(slot)
    for _ in range(4):
        table.grow(table.open(), 1000)
    assert sorted(owned(table)) == list(range(table.pages))


def test_step_inputs_of_a_ragged_batch() -> None:
    batch = [Rows(2, 10, [7, 8, 9], 1), Rows(0, 0, [5], 0), Rows(1, 127, [3, 4], 2)]
    inputs = step_inputs(batch, CPU)
    assert {name: tensor.tolist() for name, tensor in inputs.items()} == {
        "ids": [7, 8, 9, 5, 3, 4],
        "pos": [10, 11, 12, 0, 127, 128],
        "slot": [2, 2, 2, 0, 1, 1],
        "start": [0, 0, 0, 3, 4, 4],
        "out_rows": [2, 4, 5],
    }
    assert {tensor.dtype for tensor in inputs.values()} == {torch.int32}
