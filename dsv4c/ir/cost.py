"""Cost of nodes and graphs: FLOPs, bytes read, bytes written.

A node reads its tensor and weight operands and writes its tensor results; what it moves of states
comes from its op's `traffic`, at most what its sequences hold. A fused node has its body's FLOPs and
state traffic, and its own boundary's bytes; what its body does only to take rows of it, it does for
these rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dsv4c.ir import ops as _ops
from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.op import OPS, Cost, bind_operands, full_attrs
from dsv4c.ir.types import CacheType, RowsType, TensorType, Type, WeightType, evaluate

assert _ops.__all__, "importing the package declares the ops"


def node_cost(node: Node, types: Mapping[str, Type], env: Mapping[str, int]) -> Cost:
    """Cost of one node when the symbols have the values of `env`."""
    if node.op == "view":
        return Cost()
    flops, traffic = _work(node, types, env)
    taken = {} if node.body is None else _taken(node.body, env)
    operands = dict.fromkeys(node.inputs)
    read = sum(_bytes(types[value], taken.get(value, env)) for value in operands) + traffic
    write = sum(_bytes(types[value], env) for value in node.outputs)
    return Cost(flops, read, write)


def graph_cost(graph: Graph, env: Mapping[str, int]) -> Cost:
    """Sum over the nodes."""
    return sum((node_cost(node, graph.types, env) for node in graph.nodes), Cost())


def region_cost(graph: Graph, nodes: Sequence[Node], env: Mapping[str, int]) -> Cost:
    """Cost of consecutive nodes as if they were one: what passes between them moves nothing."""
    made = {value for node in nodes for value in node.outputs}
    names = {node.name for node in nodes}
    taken = dict.fromkeys(value for node in nodes for value in node.inputs if value not in made)
    given = [
        value
        for value in made
        if value in graph.outputs
        or any(user.name not in names for user in graph.consumers.get(value, ()))
    ]
    work = [_work(node, graph.types, env) for node in nodes if node.op != "view"]
    read = sum(_bytes(graph.types[value], env) for value in taken)
    write = sum(_bytes(graph.types[value], env) for value in given)
    return Cost(sum(flops for flops, _ in work), read + sum(traffic for _, traffic in work), write)


def _bytes(type_: Type, env: Mapping[str, int]) -> int:
    return type_.nbytes(env) if isinstance(type_, TensorType | WeightType) else 0


def _taken(body: Graph, env: Mapping[str, int]) -> dict[str, Mapping[str, int]]:
    """Values of a body that end in `take_rows` only, with T as the number of rows taken."""
    if not any(node.op == "take_rows" for node in body.nodes):
        return {}
    found: dict[str, Mapping[str, int]] = {}
    few = {**env, "T": env["R"]}
    values = (*body.inputs, *(value for node in body.nodes for value in node.outputs))
    for value in reversed(values):
        users = body.consumers.get(value, ())
        ends = all(
            one.op == "take_rows" or all(out in found for out in one.outputs) for one in users
        )
        if users and ends and value not in body.outputs:
            found[value] = few
    return found


def _work(node: Node, types: Mapping[str, Type], env: Mapping[str, int]) -> tuple[float, float]:
    if node.body is not None:
        taken = _taken(node.body, env)
        inner = [
            _work(part, node.body.types, taken.get(part.name, env)) for part in node.body.nodes
        ]
        return sum(flops for flops, _ in inner), sum(traffic for _, traffic in inner)
    spec = OPS[node.op]
    operands = [types[value] for value in node.inputs]
    attrs = full_attrs(spec, node.attrs)
    dims: dict[str, int] = {}
    for name, dim in bind_operands(spec, operands, attrs).items():
        parts = dim if isinstance(dim, tuple) else (dim,)
        dims[name] = math.prod(evaluate(part, env) for part in parts)
    held = math.inf
    for type_ in operands:
        if isinstance(type_, CacheType):
            dims["entry_bytes"] = type_.layout.entry_bytes
        if isinstance(type_, CacheType | RowsType):
            held = _held(type_, env)
        if isinstance(type_, WeightType):
            dims["weight_bytes"] = type_.nbytes(env)
    return spec.flops(dims, attrs), min(spec.traffic(dims, attrs), held)


def _held(type_: CacheType | RowsType, env: Mapping[str, int]) -> float:
    """Most bytes of a state that the S sequences of a step, of P pages each, can move.

    Those of a cache once; partial rows are f32, read and written.
    """
    sequences = env.get("S", math.inf)
    if isinstance(type_, RowsType):
        return sequences * 2 * 4 * type_.rows * type_.width
    entries = type_.ring or env.get("P", math.inf) * type_.layout.page
    return sequences * entries * type_.layout.entry_bytes
