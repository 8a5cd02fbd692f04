"""The bytes that a plan holds of a weight's component, front to back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.codegen.packing import packing
from dsv4c.ir.weight_formats import weight_format
from dsv4c.models.deepseek_v4.names import WeightSource
from dsv4c.plan.forms import Form


def component_pieces(
    checkpoint: Checkpoint, form: Form, sources: Sequence[WeightSource], number: int
) -> Iterator[Tensor]:
    """One component of a form in memory order, in pieces, where the checkpoint's tensors are.

    A piece is valid until the next is taken.

    Args:
        checkpoint: where the tensors come from.
        form: which weights, and how they are packed.
        sources: of these weights.
        number: of the component in their format.

    Raises:
        DsvError: DSV211 or DSV213 from reading.
    """
    if not form.packing:
        yield from checkpoint.stream_component(sources[0], number)
        return
    fmt, chosen = sources[0].format, packing(form.packing)
    part = weight_format(fmt).component_names[number]
    stacked = len(sources[0].shape) > 2
    for expert in range(sources[0].shape[0]) if stacked else (None,):
        tensors = [checkpoint.read_component(source, number, expert) for source in sources]
        yield from chosen.pieces(fmt, part, tensors)
