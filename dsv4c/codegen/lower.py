"""Lowering: what runs each node. Nodes get a kernel if a template takes them.

On `cpu` every node runs by its reference. On a GPU target a node without a kernel does too, on the
GPU, and the plan counts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dsv4c.codegen.kernel import KernelSource, NodeFacts, Refusal, ValueFacts, family, kinds
from dsv4c.codegen.render import render
from dsv4c.errors import DsvError
from dsv4c.ir.graph import Graph, Node, Scratch
from dsv4c.ir.types import CacheType, Dims, RowsType, TensorType, Type, parse_dim
from dsv4c.ir.weight_formats import FORMATS
from dsv4c.passes.base import PassResult, Remark, at_stage

REFERENCE = "reference"
TARGETS = ("cpu", "sm_90a", "sm_100a")
_DTYPES = {"fp8": "u8", "mxfp4": "u8", "bf16": "bf16", "f32": "f32"}


@dataclass(frozen=True)
class Lower:
    """Chooses a template for each node of a kind that has one; the remark says which, or why none."""

    target: str = "cpu"
    name: str = "lower"

    def run(self, graph: Graph) -> PassResult:
        nodes: list[Node] = []
        remarks: list[Remark] = []
        for node in graph.nodes:
            impl, scratch = REFERENCE, ()
            if self.target != "cpu" and (node.body is not None or node.op in kinds()):
                chosen = _choose(node, graph, self.target)
                applied = isinstance(chosen, KernelSource)
                impl = chosen.name if isinstance(chosen, KernelSource) else REFERENCE
                scratch = scratch_of(chosen) if isinstance(chosen, KernelSource) else ()
                text = impl if isinstance(chosen, KernelSource) else chosen.reason
                status = "applied" if applied else "refused"
                remarks.append(Remark(self.name, status, node.name, node.origin.layer, text))
            nodes.append(replace(node, impl=impl, scratch=scratch))
        lowered = at_stage(graph.with_nodes(nodes), "lowered")
        candidates = None if self.target == "cpu" else len(remarks)
        return PassResult(lowered, True, tuple(remarks), candidates)


def scratch_of(source: KernelSource) -> tuple[Scratch, ...]:
    """A kernel's workspaces as a node wants them."""
    return tuple(
        Scratch(TensorType(one.dtype, tuple(parse_dim(str(dim)) for dim in one.dims)), one.zeroed)
        for one in source.workspaces
    )


def kernel_sources(graph: Graph, target: str) -> dict[str, KernelSource]:
    """The rendered kernels that a lowered graph names, with every user in their headers."""
    users: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.impl != REFERENCE:
            users.setdefault(node.impl, []).append(node)
    sources: dict[str, KernelSource] = {}
    for name, nodes in users.items():
        provenance = [
            f"%{node.name} ({', '.join(node.origin.tensors) or 'no weights'})" for node in nodes
        ]
        source = _choose(nodes[0], graph, target, provenance)
        if (
            not isinstance(source, KernelSource)
            or source.name != name
            or any(node.scratch != scratch_of(source) for node in nodes)
        ):
            raise DsvError(
                "DSV303",
                "no template makes the kernel that a node names",
                where=f"%{nodes[0].name}",
                expected=source.name if isinstance(source, KernelSource) else source.reason,
                found=name,
                hint="start from a file of stage fused to have kernels chosen anew",
            )
        sources[name] = source
    return sources


def _choose(
    node: Node, graph: Graph, target: str, provenance: list[str] | None = None
) -> KernelSource | Refusal:
    kind = str(node.attrs.get("kind", node.op))
    if kind not in kinds():
        return Refusal(f"there is no template for {kind}")
    params = family(kind).select(node_facts(node, graph.types), target)
    if isinstance(params, Refusal):
        return params
    return render(kind, params, target, provenance or [])


def node_facts(node: Node, types: Mapping[str, Type]) -> NodeFacts:
    """A node as templates see it."""
    attrs = {k: v for k, v in node.attrs.items() if k != "kind" and not isinstance(v, tuple)}
    return NodeFacts(
        str(node.attrs.get("kind", node.op)),
        tuple(_facts(types[value]) for value in node.inputs),
        tuple(_facts(types[value]) for value in node.outputs),
        attrs,
    )


def _facts(type_: Type) -> ValueFacts:
    if isinstance(type_, TensorType):
        return ValueFacts("tensor", type_.dtype, _plain(type_.dims))
    if isinstance(type_, RowsType):
        return ValueFacts("state", "f32", ("S", type_.rows, type_.width))
    if isinstance(type_, CacheType):
        layout = type_.layout
        coded = layout.format in ("fp8", "mxfp4")
        dims = ("pages", layout.page_bytes) if coded else ("pages", layout.page, layout.width)
        dtype = _DTYPES[layout.format]
        return ValueFacts("state", dtype, dims, layout.format, layout.page, layout.rope)
    dtype = type_.format if len(FORMATS[type_.format].components) == 1 else "u8"
    return ValueFacts("weight", dtype, type_.dims, type_.format)


def _plain(dims: Dims) -> tuple[int | str, ...]:
    return tuple(dim if isinstance(dim, int) else str(dim) for dim in dims)
