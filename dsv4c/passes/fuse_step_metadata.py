"""What a step's rows need to know, once: RoPE angles and where entries lie.

    pos, slot, block_table -> rope_angles, window_slots, window_entries, entry_slots, visible_entries

of all layers become one `fused.step_metadata`, the first node of the step. Its attributes are those of
its nodes, each with the number of the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dsv4c.ir.graph import Attr, Graph, Node, Origin
from dsv4c.passes.base import PassResult
from dsv4c.passes.rules import Match, fuse_all, require

KIND = "step_metadata"
OPS = ("rope_angles", "window_slots", "window_entries", "entry_slots", "visible_entries")
STEP = ("pos", "slot", "block_table")


@dataclass(frozen=True)
class FuseStepMetadata:
    """Anchored at the first of these nodes."""

    name: str = "fuse_step_metadata"

    def run(self, graph: Graph) -> PassResult:
        first = next((node.name for node in graph.nodes if node.op in OPS), None)
        result = fuse_all(graph, self.name, lambda _, node: node.name == first, _match)
        # Step inputs are all that it needs, so it can be first.
        nodes = sorted(result.graph.nodes, key=lambda node: node.attrs.get("kind") != KIND)
        return replace(result, graph=result.graph.with_nodes(nodes))


def _match(graph: Graph, _: Node) -> Match:
    nodes = [node for node in graph.nodes if node.op in OPS]
    attrs: dict[str, Attr] = {}
    for number, node in enumerate(nodes):
        require(node.inputs == STEP[: len(node.inputs)], f"{node.op} of {STEP}", node.inputs)
        attrs[f"op{number}"] = node.op
        attrs |= {f"{name}{number}": value for name, value in node.attrs.items()}
    count = max(len(node.inputs) for node in nodes)
    outputs = tuple(node.name for node in nodes)
    # Layers share the results: the node belongs to none.
    return Match(KIND, tuple(nodes), STEP[:count], outputs, attrs=attrs, origin=Origin())
