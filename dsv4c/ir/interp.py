"""The interpreter: runs a graph node by node with each op's reference.

Two precisions. `plan`: maths in fp32, every result rounded to its declared dtype, which is what a
plan computes. `exact`: maths in fp64, floats never rounded between nodes, which is what a kernel
that keeps a fused body in registers is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from dsv4c.ir import ops as _ops
from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.op import OPS, full_attrs
from dsv4c.ir.types import CacheType, RowsType, TensorType, Type
from dsv4c.ir.values import CONTEXTS, TORCH_DTYPES, Operand, Precision, State

assert _ops.__all__, "importing the package declares the ops"


def round_to(value: torch.Tensor, type_: Type, precision: Precision) -> torch.Tensor:
    """Store a result as its type says; in `exact` precision floats stay fp64."""
    assert isinstance(type_, TensorType)
    dtype = TORCH_DTYPES[type_.dtype]
    if precision == "exact" and dtype.is_floating_point:
        return value if value.dtype == torch.float64 else value.to(torch.float64)
    return value.to(dtype)


def run_node(
    node: Node,
    inputs: Sequence[Operand],
    types: Mapping[str, Type],
    precision: Precision = "plan",
) -> tuple[Operand, ...]:
    """Outputs of one node; states are written in place and returned as the next version."""
    if node.body is not None:
        env = run_graph(node.body, dict(zip(node.inputs, inputs, strict=True)), precision)
        return tuple(env[value] for value in node.outputs)
    spec = OPS[node.op]
    attrs = full_attrs(spec, node.attrs)
    attrs.pop("dtype", None)  # how a result is stored is decided here, not by references
    result = spec.reference(CONTEXTS[precision], *inputs, **attrs)
    results = iter(result if isinstance(result, tuple) else (result,))
    states = iter([value for value in inputs if isinstance(value, State)])
    outputs: list[Operand] = []
    for name in node.outputs:
        type_ = types[name]
        if isinstance(type_, CacheType | RowsType):
            outputs.append(next(states))
        else:
            outputs.append(round_to(next(results), type_, precision))
    return tuple(outputs)


def run_graph(
    graph: Graph,
    env: Mapping[str, Operand],
    precision: Precision = "plan",
    observe: Callable[[Node, Sequence[Operand], Sequence[Operand]], None] | None = None,
) -> dict[str, Operand]:
    """Values of the graph's outputs, given its inputs. Dead values are dropped as it goes.

    Args:
        graph: any stage; fused nodes run by their bodies.
        env: a value for every graph input.
        precision: see the module.
        observe: called after each node with its operands and results.
    """
    values = dict(env)
    last = {value: i for i, node in enumerate(graph.nodes) for value in node.inputs}
    kept = set(graph.outputs)
    for i, node in enumerate(graph.nodes):
        inputs = [values[value] for value in node.inputs]
        outputs = run_node(node, inputs, graph.types, precision)
        values.update(zip(node.outputs, outputs, strict=True))
        if observe is not None:
            observe(node, inputs, outputs)
        for value in dict.fromkeys((*node.inputs, *node.outputs)):
            if last.get(value, -1) <= i and value not in kept:
                values.pop(value, None)
    return {value: values[value] for value in graph.outputs}
