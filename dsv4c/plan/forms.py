"""What a plan stores of its weights: as they are in the checkpoint, or packed for a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from dsv4c.codegen.kernel import PackedOperand
from dsv4c.codegen.packing import packing
from dsv4c.ir.graph import Graph
from dsv4c.ir.types import WeightType
from dsv4c.ir.weight_formats import Shape, weight_format
from dsv4c.plan import manifest

PackedOperands = Mapping[str, Sequence[PackedOperand]]
"""For a kernel's name the operands that it takes packed."""


@dataclass(frozen=True, slots=True)
class Form:
    """What is stored of one or several weights: packed, or as they are (packing "")."""

    weights: tuple[str, ...]
    packing: str = ""

    @property
    def key(self) -> str:
        """How its tensors' names begin."""
        return "+".join(self.weights) + (f"@{self.packing}" if self.packing else "")


def forms(graph: Graph, operands: PackedOperands) -> list[Form]:
    """What a plan stores, in the order of its weights.

    A weight is stored as it is if a kernel takes it so, or no kernel takes it packed. References
    unpack a weight that is only stored packed.

    Args:
        graph: a lowered graph.
        operands: of its kernels.
    """
    packed: dict[Form, None] = {}
    plain: set[str] = set()
    for node in graph.nodes:
        if node.impl == "reference":
            continue
        joined = operands.get(node.impl, ())
        packed |= {form_of(node.inputs, operand): None for operand in joined}
        plain |= {*node.inputs} - {node.inputs[i] for one in joined for i in one.inputs}
    covered = {name for form in packed for name in form.weights} - plain
    found: list[Form] = []
    for name in graph.weights:
        found += [Form((name,))] if name not in covered else []
        found += [form for form in packed if form.weights[0] == name]
    return found


def form_of(inputs: Sequence[str], operand: PackedOperand) -> Form:
    """The form that a node with these inputs takes."""
    return Form(tuple(inputs[i] for i in operand.inputs), operand.packing)


def packed_shapes(form: Form, types: Sequence[WeightType]) -> tuple[Shape, ...]:
    """Shapes of the stored components of a form, experts in front.

    Raises:
        DsvError: DSV301, the weights cannot be joined; DSV231, there is no such packing.
    """
    fmt, lead = types[0].format, types[0].dims[:-2]
    spec = weight_format(fmt)
    if not form.packing:
        return spec.component_shapes(types[0].dims)
    assert all((one.format, one.dims[:-2]) == (fmt, lead) for one in types), f"{form}: {types}"
    chosen = packing(form.packing)
    matrices = [spec.component_shapes(one.dims[-2:]) for one in types]
    return tuple(
        (*lead, *chosen.shape(fmt, name, shapes))
        for name, *shapes in zip(spec.component_names, *matrices, strict=True)
    )


def stored_bytes(read: manifest.Manifest) -> int:
    """Size of all stored components."""
    parts = manifest.components(read)
    return sum(getattr(torch, one.dtype).itemsize * prod(one.shape) for one in parts)


def packed_operands(kernels: Sequence[manifest.Kernel]) -> PackedOperands:
    """What kernels take packed."""
    return {
        kernel.name: [PackedOperand(tuple(one.inputs), one.packing) for one in kernel.packed]
        for kernel in kernels
        if kernel.packed
    }


def packed_form(entry: manifest.Packed) -> Form:
    """The form of an entry of the manifest."""
    return Form(tuple(entry.weights), entry.packing)


def unpacked(
    form: Form,
    types: Sequence[WeightType],
    stored: Sequence[Tensor],
    number: int,
    expert: int | None = None,
) -> tuple[Tensor, ...]:
    """Components of a weight, or of one of its experts, out of a packed form that holds it.

    Args:
        form: the form.
        types: of its weights.
        stored: its components.
        number: which of its weights.
        expert: number, of a stacked weight; None for all.
    """
    chosen, fmt = packing(form.packing), types[0].format
    spec = weight_format(fmt)
    matrices = [spec.component_shapes(one.dims[-2:]) for one in types]
    found: list[Tensor] = []
    for part, tensor, *shapes in zip(spec.component_names, stored, *matrices, strict=True):
        if expert is not None:
            found.append(chosen.unpack(fmt, part, tensor[expert], shapes)[number])
        elif len(types[0].dims) == 2:
            found.append(chosen.unpack(fmt, part, tensor, shapes)[number])
        else:
            experts = [chosen.unpack(fmt, part, one, shapes)[number] for one in tensor]
            found.append(torch.stack(experts))
    return tuple(found)
