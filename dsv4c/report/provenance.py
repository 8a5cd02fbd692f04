"""Where everything in a graph comes from, and what becomes of it: an index of one graph.

A node comes from the nodes of the graph as built that it holds, from checkpoint tensors, and from
the step inputs and states that it reads; one that several layers share belongs to all that use it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

from dsv4c.ir.graph import Graph, Node, writes
from dsv4c.ir.lifetimes import Stay, stays
from dsv4c.ir.types import WeightType

_RANGE = re.compile(r"\{0\.\.(\d+)\}")


class OriginView(TypedDict):
    """`layers` use a node that belongs to none; `inputs` are the step inputs and states behind it."""

    layer: int | None
    layers: list[int]
    tensors: list[str]
    inputs: list[str]
    built: list[str]


@dataclass(frozen=True)
class Provenance:
    """Both directions over one graph."""

    graph: Graph

    @cached_property
    def holders(self) -> dict[str, Node]:
        """Every value made in the graph, fused bodies included -> the node that makes it.

        A value that a body computes again belongs to the node that makes it for all.
        """
        found: dict[str, Node] = {}
        for node in self.graph.nodes:
            inner = node.body.walk() if node.body is not None else iter(())
            for value in (value for part in inner for value in part.outputs):
                found.setdefault(value, node)
        return {**found, **self.graph.producers}

    @cached_property
    def tensors(self) -> dict[str, str]:
        """Checkpoint tensor -> weight; experts by their common name, `experts.{0..7}.w1.weight`."""
        return {
            name: weight for weight in self.graph.weights for name in self.graph.sources[weight]
        }

    def weight_of(self, tensor: str) -> str | None:
        """The weight that a checkpoint tensor is in; one expert's tensor is in all experts' weight."""
        if tensor in self.tensors:
            return self.tensors[tensor]
        number = re.search(r"(?<=experts\.)\d+(?=\.)", tensor)
        if number is None:
            return None
        head, tail = tensor[: number.start()], tensor[number.end() :]
        for name, weight in self.tensors.items():
            if (span := _RANGE.search(name)) is None:
                continue
            same = name[: span.start()] == head and name[span.end() :] == tail
            if same and int(number[0]) <= int(span[1]):
                return weight
        return None

    def users(self, value: str) -> tuple[Node, ...]:
        """The nodes that read a value."""
        return self.graph.consumers.get(value, ())

    def origin(self, node: Node) -> OriginView:
        """Where a node comes from."""
        parts = list(node.body.walk()) if node.body is not None else [node]
        layers = {node.origin.layer} if node.origin.layer is not None else self._layers(node)
        return {
            "layer": node.origin.layer,
            "layers": sorted(layer for layer in layers if layer is not None),
            "tensors": list(node.origin.tensors),
            "inputs": self._inputs(node),
            "built": list(dict.fromkeys(part.name for part in parts)),
        }

    def _layers(self, node: Node) -> set[int | None]:
        users = (user for value in node.outputs for user in self.users(value))
        return {user.origin.layer for user in users}

    def _inputs(self, node: Node) -> list[str]:
        """Step inputs and states that a node reads, also through nodes without a weight."""
        found: dict[str, None] = {}
        waiting, seen = list(node.inputs), set[str]()
        while waiting:
            value = waiting.pop(0)
            if value in seen:
                continue
            seen.add(value)
            maker = self.graph.producers.get(value)
            if maker is None:
                if not isinstance(self.graph.types[value], WeightType):
                    found[value] = None
            elif not maker.origin.tensors and maker.origin.layer in (None, node.origin.layer):
                waiting += maker.inputs
        return list(found)

    def stays(self, byte: int) -> list[Stay]:
        """What lies over a byte of a planned graph's arena, in order."""
        if not self.graph.step:
            return []
        found: list[Stay] = []
        for stay in stays(self.graph):
            offset = self.graph.nodes[stay.first].offsets[stay.number]
            if offset <= byte < offset + stay.type.nbytes(self.graph.step):
                found.append(stay)
        return found

    def versions(self, state: str) -> dict[str, str | None]:
        """A state's versions, oldest first, and the node that writes each; the first has none."""
        found: dict[str, str | None] = {state: None}
        newest = state
        for node in self.graph.nodes:
            if newest in node.inputs:
                for new, old in writes(node, self.graph).items():
                    if old == newest:
                        found[new] = node.name
                        newest = new
                        break
        return found
