"""The graph: values are names, nodes are immutable, passes build new graphs.

A value is defined once, as a graph input or as one output of one node. A state (a cache, partial
rows) is a value too: an op that writes it takes one version and returns the next, and the plan
executes that in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from dsv4c.ir.types import CacheType, RowsType, TensorType, Type, WeightType

if TYPE_CHECKING:
    import networkx as nx

Attr = int | float | str | bool | tuple[int, ...]
STAGES = ("model", "fused", "lowered", "planned")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a node comes from: its layer (None outside of layers) and its checkpoint tensors."""

    layer: int | None = None
    tensors: tuple[str, ...] = ()

    def union(self, others: Iterable[Origin]) -> Origin:
        layer, tensors = self.layer, dict.fromkeys(self.tensors)
        for other in others:
            layer = other.layer if layer is None else layer
            tensors.update(dict.fromkeys(other.tensors))
        return Origin(layer, tuple(tensors))


@dataclass(frozen=True, slots=True)
class Scratch:
    """Memory that what runs a node wants beside its results. `zeroed`: it finds and leaves zeros."""

    type: TensorType
    zeroed: bool = False


@dataclass(frozen=True)
class Node:
    """One operation.

    `impl` and `scratch` are set when lowered: a kernel's name or `reference`, and what it wants.
    `offsets` is set when planned: bytes from the start of the arena, one per output, -1 for what
    lies elsewhere, states and views of graph inputs; a view has its operand's. Then one per scratch,
    for a zeroed one from the start of the zeroed region, which all nodes share.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Attr] = field(default_factory=dict[str, Attr])
    origin: Origin = Origin()
    body: Graph | None = None
    impl: str = ""
    scratch: tuple[Scratch, ...] = ()
    offsets: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The first output's name: unique in the graph."""
        return self.outputs[0]

    @property
    def by_reference(self) -> bool:
        """Whether torch runs it, by its op's reference; a view is no work."""
        return self.impl == "reference" and self.op != "view"

    @property
    def kind(self) -> str:
        """The op's name, or `fused.KIND`."""
        return f"fused.{self.attrs.get('kind', '?')}" if self.body is not None else self.op


@dataclass(frozen=True)
class Graph:
    """Nodes in execution order between inputs and outputs.

    Attributes:
        inputs: step inputs, weights and states, in this order.
        types: the type of every value, body values of fused nodes excluded.
        sources: for each weight, the checkpoint tensors behind it.
        outputs: the logits, the tokens drawn from them, the last version of every state that was
            written.
        step: of a planned graph, the largest step that the arena is laid out for.
    """

    name: str
    stage: str
    inputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    types: Mapping[str, Type]
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    step: Mapping[str, int] = field(default_factory=dict[str, int])

    @cached_property
    def producers(self) -> dict[str, Node]:
        return {value: node for node in self.nodes for value in node.outputs}

    @cached_property
    def places(self) -> dict[str, int]:
        """Each node's place in the order, by name."""
        return {node.name: i for i, node in enumerate(self.nodes)}

    @cached_property
    def consumers(self) -> dict[str, tuple[Node, ...]]:
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                found.setdefault(value, []).append(node)
        return {value: tuple(nodes) for value, nodes in found.items()}

    def inputs_of_kind(self, *kinds: type) -> list[str]:
        return [value for value in self.inputs if isinstance(self.types[value], kinds)]

    @property
    def weights(self) -> list[str]:
        return self.inputs_of_kind(WeightType)

    @property
    def states(self) -> list[str]:
        return self.inputs_of_kind(CacheType, RowsType)

    def walk(self) -> Iterator[Node]:
        """Every node, those inside fused bodies after their fused node."""
        for node in self.nodes:
            yield node
            if node.body is not None:
                yield from node.body.walk()

    def with_nodes(self, nodes: Iterable[Node], types: Mapping[str, Type] | None = None) -> Graph:
        """A copy with other nodes; types of values that no longer exist are dropped."""
        kept = tuple(nodes)
        known = {**self.types, **(types or {})}
        alive = [*self.inputs, *(value for node in kept for value in node.outputs)]
        return replace(self, nodes=kept, types={value: known[value] for value in alive})


def writes(node: Node, graph: Graph) -> dict[str, str]:
    """State versions that a node writes: new version -> the version it replaces.

    A state output takes the place of the state input of the same order.
    """
    states = (CacheType, RowsType)
    new = [value for value in node.outputs if isinstance(graph.types.get(value), states)]
    if not new:
        return {}
    if node.body is None:
        old = [value for value in node.inputs if isinstance(graph.types.get(value), states)]
        return dict(zip(new, old, strict=False))
    chain = {
        made: took for inner in node.body.nodes for made, took in writes(inner, node.body).items()
    }
    found: dict[str, str] = {}
    for value in new:
        root = value
        while root in chain:
            root = chain[root]
        found[value] = root
    return found


def rename_inputs(node: Node, names: Mapping[str, str]) -> Node:
    """The node reading other values, inside its body too."""
    inputs = tuple(names.get(value, value) for value in node.inputs)
    if inputs == node.inputs:
        return node
    if node.body is None:
        return replace(node, inputs=inputs)
    inner = dict(zip(node.inputs, inputs, strict=True))
    body = replace(
        node.body,
        inputs=inputs,
        nodes=tuple(rename_inputs(part, inner) for part in node.body.nodes),
        types={inner.get(value, value): type_ for value, type_ in node.body.types.items()},
    )
    return replace(node, inputs=inputs, body=body)


def view_roots(graph: Graph) -> dict[str, str]:
    """For every value the one whose memory it is: a `view` shares its operand's."""
    root = {value: value for value in graph.inputs}
    for node in graph.nodes:
        for value in node.outputs:
            root[value] = root.get(node.inputs[0], value) if node.op == "view" else value
    return root


def dependence(graph: Graph) -> nx.DiGraph[int]:
    """Node order as a DAG over indices: data edges, and readers of a state before its writer."""
    import networkx as nx

    dag: nx.DiGraph[int] = nx.DiGraph()
    dag.add_nodes_from(range(len(graph.nodes)))
    index = {value: i for i, node in enumerate(graph.nodes) for value in node.outputs}
    readers: dict[str, list[int]] = {}
    for i, node in enumerate(graph.nodes):
        for value in node.inputs:
            if value in index:
                dag.add_edge(index[value], i)
            readers.setdefault(value, []).append(i)
    for i, node in enumerate(graph.nodes):
        for old in writes(node, graph).values():
            dag.add_edges_from((reader, i) for reader in readers[old] if reader != i)
    return dag


def sort_nodes(graph: Graph) -> Graph:
    """Nodes in a stable topological order (by data, then by reader before writer)."""
    import networkx as nx

    order = nx.lexicographical_topological_sort(dependence(graph), key=lambda i: i)
    return replace(graph, nodes=tuple(graph.nodes[i] for i in order))
