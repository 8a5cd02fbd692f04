"""Which part of a graph a view shows: one layer, names that match a pattern, or all of it."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from dsv4c.ir.graph import Graph, Node


@dataclass(frozen=True, slots=True)
class Selection:
    """A filter; the empty one lets everything pass.

    Attributes:
        layer: only what belongs to this layer.
        pattern: shell pattern for the name, the kind or the implementation of a node, or the name
            of a weight or state.
    """

    layer: int | None = None
    pattern: str | None = None

    @property
    def everything(self) -> bool:
        return self.layer is None and self.pattern is None

    def takes(self, layer: int | None, *names: str) -> bool:
        """Whether something of this layer, known by these names, passes."""
        if self.layer is not None and layer != self.layer:
            return False
        return self.pattern is None or any(fnmatchcase(name, self.pattern) for name in names)

    def takes_node(self, node: Node) -> bool:
        return self.takes(node.origin.layer, node.name, node.kind, node.impl)


def layer_of(value: str, graph: Graph) -> int | None:
    """The layer of the first node that uses a graph input."""
    users = graph.consumers.get(value, ())
    return users[0].origin.layer if users else None
