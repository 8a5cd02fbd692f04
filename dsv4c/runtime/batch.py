"""Inputs of one step: rows of several sequences, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive tokens of one sequence in a step.

    Attributes:
        slot: the sequence's slot.
        position: absolute position of the first token.
        ids: token ids.
        logits: how many of the last rows are wanted as logits.
    """

    slot: int
    position: int
    ids: Sequence[int]
    logits: int


def step_inputs(batch: Sequence[Rows], device: torch.device) -> dict[str, torch.Tensor]:
    """`ids`, `pos`, `slot`, `start` [T] and `out_rows` [R], all i32, on the device."""
    columns: dict[str, list[int]] = {"ids": [], "pos": [], "slot": [], "start": [], "out_rows": []}
    for rows in batch:
        first, count = len(columns["ids"]), len(rows.ids)
        columns["ids"] += rows.ids
        columns["pos"] += range(rows.position, rows.position + count)
        columns["slot"] += [rows.slot] * count
        columns["start"] += [first] * count
        columns["out_rows"] += range(first + count - rows.logits, first + count)
    return {
        name: torch.tensor(values, dtype=torch.int32, device=device)
        for name, values in columns.items()
    }
