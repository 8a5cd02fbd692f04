"""The inputs of a step: rows of several sequences, staged on the host and copied at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from dsv4c.ir.lifetimes import aligned
from dsv4c.models.deepseek_v4.build import SAMPLING_INPUTS
from dsv4c.runtime.sampling import GREEDY, Sampling

PADDED = -1
"""Slot of a row that belongs to no sequence."""
LEAST_PAGES = 8
"""Columns of the smallest block table that a step is given."""
_COLUMNS = ("ids", "pos", "slot", "start")
_ROWS = ("out_rows", *SAMPLING_INPUTS)
_FLOATS = ("temperature", "top_p")
Column = Sequence[int] | Sequence[float]


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive tokens of one sequence in a step.

    Attributes:
        slot: the sequence's slot.
        position: absolute position of the first token.
        ids: token ids.
        logits: how many of the last rows are wanted as logits.
        sampling: how a token is drawn from each of these.
    """

    slot: int
    position: int
    ids: Sequence[int]
    logits: int
    sampling: Sampling = GREEDY


class TokenBatch(NamedTuple):
    """One token for each of several sequences.

    Attributes:
        slots: of the sequences, all different.
        positions: of the tokens.
        ids: token ids.
        sampling: how the next token of each is drawn.
        version: equal ones of two steps say that the block table has not changed; None if not known.
    """

    slots: tuple[int, ...]
    positions: Sequence[int] | np.ndarray
    ids: Sequence[int]
    sampling: tuple[Sampling, ...]
    version: int | None = None

    @classmethod
    def of(cls, slots: Sequence[int], positions: Sequence[int], ids: Sequence[int]) -> TokenBatch:
        """Tokens whose next ones are the most likely."""
        return cls(tuple(slots), positions, ids, (GREEDY,) * len(slots))

    def rows(self) -> list[Rows]:
        """The same as rows of a step."""
        return [
            Rows(slot, position, [token], 1, sampling)
            for slot, position, token, sampling in zip(*self[:4], strict=True)
        ]


class Sizes(NamedTuple):
    """The run-time numbers of a step: T tokens, R rows of logits, S slots, P pages each."""

    T: int
    R: int
    S: int
    P: int

    @property
    def env(self) -> dict[str, int]:
        """For `dsv4c.ir.types.evaluate`."""
        return self._asdict()


@cache
def bucket(count: int, most: int) -> int:
    """The smallest power of two that is at least `count`, or `most` if that is smaller."""
    return min(1 << max(count - 1, 0).bit_length(), most)


def buckets(least: int, most: int) -> list[int]:
    """Every bucket from that of `least` to `most`."""
    found = [bucket(least, most)]
    while found[-1] < most:
        found.append(bucket(found[-1] + 1, most))
    return found


def columns(batch: Sequence[Rows], padded: int = 0) -> dict[str, Column]:
    """The step inputs of each row and of each row of logits; padded rows come last.

    Args:
        batch: rows of several sequences.
        padded: T to pad to; each row is then wanted as logits.
    """
    found: dict[str, list[int]] = {name: [] for name in (*_COLUMNS, "out_rows")}
    drawn: list[Sampling] = []
    for rows in batch:
        first, count = len(found["ids"]), len(rows.ids)
        found["ids"] += rows.ids
        found["pos"] += range(rows.position, rows.position + count)
        found["slot"] += [rows.slot] * count
        found["start"] += [first] * count
        found["out_rows"] += range(first + count - rows.logits, first + count)
        drawn += [rows.sampling] * rows.logits
    for row in range(len(found["ids"]), padded):
        for name, value in zip(_COLUMNS, (0, 0, PADDED, row), strict=True):
            found[name].append(value)
        found["out_rows"].append(row)
        drawn.append(GREEDY)
    return {
        **found,
        "temperature": [one.temperature for one in drawn],
        "top_k": [one.top_k for one in drawn],
        "top_p": [one.top_p for one in drawn],
        "seed": [word for one in drawn for word in one.words],
        "next_pos": [found["pos"][row] + 1 for row in found["out_rows"]],
    }


class StepInputs:
    """One buffer on the host and one on the device, laid out anew for the sizes of each step.

    Args:
        most: the largest step.
        device: where the step runs; beside a GPU the host's buffer is pinned.
    """

    def __init__(self, most: Sizes, device: torch.device) -> None:
        size = input_bytes(most)
        pinned = device.type == "cuda"
        self._host = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
        self._device = torch.zeros(size, dtype=torch.uint8, device=device)
        self._bytes = self._host.numpy()
        self._decoded: tuple[Sizes, tuple[int, ...], tuple[Sampling, ...]] | None = None
        self._changing: list[np.ndarray] = []
        self._version: int | None = None

    def views(self, sizes: Sizes) -> dict[str, torch.Tensor]:
        """The step inputs of these sizes, on the device."""
        return {
            name: self._device[begin : begin + size]
            .view(torch.float32 if name in _FLOATS else torch.int32)
            .view(shape)
            for name, (begin, size, shape) in _layout(sizes).items()
        }

    def copies(self, sizes: Sizes) -> tuple[torch.Tensor, torch.Tensor]:
        """What is copied for a step of these sizes: from the host's buffer, to the device's."""
        end = input_bytes(sizes)
        return self._host[:end], self._device[:end]

    def stage(self, sizes: Sizes, values: Mapping[str, Column], table: np.ndarray) -> None:
        """Write the inputs of a step into the host's buffer.

        Args:
            sizes: of the step.
            values: of `columns`.
            table: the block table of all sequences, i32 [S, P or more].
        """
        self._decoded = None
        for name, part in self._parts(sizes).items():
            part[...] = table[:, : sizes.P] if name == "block_table" else values[name]

    def stage_tokens(self, sizes: Sizes, batch: TokenBatch, table: np.ndarray) -> None:
        """`stage` of one token a sequence; what stays from one such step to the next is kept.

        Args:
            sizes: of the step, T = R of at least the batch; the rest is padded.
            batch: the tokens.
            table: the block table of all sequences, i32 [S, P or more].
        """
        same = sizes, batch.slots, batch.sampling
        if self._decoded != same:
            self.stage(sizes, columns(batch.rows(), sizes.T), table)
            parts = self._parts(sizes)
            tokens = [parts[name][: len(batch.ids)] for name in ("ids", "pos", "next_pos")]
            self._decoded, self._changing = same, [*tokens, parts["block_table"]]
            self._version = batch.version
            return
        ids, positions, following, pages = self._changing
        ids[...], positions[...] = batch.ids, batch.positions
        np.add(positions, 1, out=following)
        if batch.version is None or batch.version != self._version:
            pages[...] = table[:, : sizes.P]
            self._version = batch.version

    def _parts(self, sizes: Sizes) -> dict[str, np.ndarray]:
        """The host's inputs of a step of these sizes."""
        found: dict[str, np.ndarray] = {}
        for name, (begin, size, shape) in _layout(sizes).items():
            part = self._bytes[begin : begin + size]
            part = part.view(np.float32 if name in _FLOATS else np.int32)
            found[name] = part.reshape(shape) if name == "block_table" else part
        return found


def input_bytes(sizes: Sizes) -> int:
    """Bytes of the inputs of a step."""
    return sum(aligned(size) for _, size, _ in _layout(sizes).values())


def _layout(sizes: Sizes) -> dict[str, tuple[int, int, tuple[int, ...]]]:
    """Where each input begins, its bytes and its shape."""
    shapes: dict[str, tuple[int, ...]] = {name: (sizes.T,) for name in _COLUMNS}
    shapes |= {name: (sizes.R, 2) if name == "seed" else (sizes.R,) for name in _ROWS}
    shapes |= {"block_table": (sizes.S, sizes.P)}
    found: dict[str, tuple[int, int, tuple[int, ...]]] = {}
    begin = 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        found[name] = begin, size, shape
        begin += aligned(size)
    return found
