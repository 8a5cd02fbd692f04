"""The three fusions of the mixture of experts: text after each, what they take in, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.text import show
from dsv4c.ir.verify import verify
from dsv4c.models.deepseek_v4.config import Kind, ModelConfig
from dsv4c.passes.base import Pass, run_passes
from dsv4c.passes.canonicalize import Canonicalize
from dsv4c.passes.common_subexpressions import CommonSubexpressions
from dsv4c.passes.dead_code import DeadCode
from dsv4c.passes.fuse_moe_down import FuseMoeDown
from dsv4c.passes.fuse_moe_gate_up import FuseMoeGateUp
from dsv4c.passes.fuse_router import FuseRouter

CLEAN: tuple[Pass, ...] = (Canonicalize(), CommonSubexpressions(), DeadCode())
FUSIONS: tuple[Pass, ...] = (FuseRouter(), FuseMoeGateUp(), FuseMoeDown())
BODIES = {
    "router": ["linear", "route_learned", "group_tokens"],
    "moe_gate_up": [*2 * ["expert_linear"], "routed_swiglu", *2 * ["linear"], "swiglu"],
    "moe_down": ["expert_linear", "linear", "combine"],
}
Golden = Callable[[str, str], None]
Layer = Callable[[Kind], Graph]


def fused(graph: Graph) -> dict[str, Node]:
    return {str(node.attrs["kind"]): node for node in graph.nodes if node.body is not None}


def test_golden(layer_graph: Layer, golden: Golden) -> None:
    graph, _ = run_passes(layer_graph("swa"), CLEAN)
    for one in FUSIONS:
        result = one.run(graph)
        verify(result.graph, one.name)
        assert [remark.status for remark in result.remarks] == ["applied"]
        graph = result.graph
        golden(f"passes/swa/moe_{one.name}.ir", show(graph))


def test_one_node_each_with_the_operands_of_its_kernel(layer_graph: Layer) -> None:
    graph, _ = run_passes(layer_graph("swa"), (*CLEAN, *FUSIONS))
    nodes = fused(graph)
    ffn, weights = "L0.ffn.", "layers.0.ffn."
    for kind, ops in BODIES.items():
        body = nodes[kind].body
        assert body is not None
        assert sorted(part.op for part in body.nodes) == sorted(ops)
    groups = (f"{ffn}order", f"{ffn}offsets")
    assert nodes["router"].inputs == (f"{ffn}x", f"{weights}gate", f"{weights}gate.bias")
    assert nodes["router"].outputs == (f"{ffn}experts", f"{ffn}weights", *groups)
    experts = [
        f"{weights}{kind}.{w}" for kind in ("experts", "shared_experts") for w in ("w1", "w3")
    ]
    assert nodes["moe_gate_up"].inputs == (f"{ffn}x", f"{ffn}weights", *groups, *experts)
    assert nodes["moe_gate_up"].outputs == (f"{ffn}act", f"{ffn}shared.act")
    down = (f"{weights}experts.w2", f"{weights}shared_experts.w2")
    assert nodes["moe_down"].inputs == (f"{ffn}act", *groups, f"{ffn}shared.act", *down)
    assert nodes["moe_down"].outputs == (f"{ffn}y",)


@pytest.mark.parametrize("name", ["tiny", "flash", "pro"])
def test_they_fire_in_every_layer(
    name: str, model_config: Callable[[str], ModelConfig], model_graph: Callable[..., Graph]
) -> None:
    config = model_config(name)
    graph, records = run_passes(model_graph(config), (*CLEAN, *FUSIONS))
    for record in records[-3:]:
        assert [remark.status for remark in record.remarks] == ["applied"] * len(config.layers)
    hashed = [node for node in graph.nodes if node.attrs.get("kind") == "router"]
    assert ["ids" in node.inputs for node in hashed] == [one.hash_routing for one in config.layers]


def changed(graph: Graph, name: str, **fields: object) -> Graph:
    """The graph with fields of one node replaced."""
    nodes = tuple(replace(n, **fields) if n.name == name else n for n in graph.nodes)  # pyright: ignore
    return graph.with_nodes(nodes)


def refusal(one: Pass, graph: Graph) -> str:
    (remark,) = one.run(graph).remarks
    assert remark.status == "refused"
    return remark.text


def test_logits_that_are_needed_elsewhere_are_kept(layer_graph: Layer) -> None:
    graph, _ = run_passes(layer_graph("swa"), CLEAN)
    kept = replace(graph, outputs=(*graph.outputs, "L0.ffn.router_logits"))
    wanted = (
        "expected %L0.ffn.router_logits to be used only by %L0.ffn.experts, the graph returns it"
    )
    assert refusal(FuseRouter(), kept) == wanted


def test_limits_that_differ(layer_graph: Layer) -> None:
    graph, _ = run_passes(layer_graph("swa"), CLEAN)
    other = changed(graph, "L0.ffn.shared.act", attrs={"limit": 7.0})
    assert refusal(FuseMoeGateUp(), other) == "expected one limit 10.0, got 7.0"


def test_up_of_another_input(layer_graph: Layer) -> None:
    graph, _ = run_passes(layer_graph("swa"), CLEAN)
    up = graph.producers["L0.ffn.up"]
    other = changed(graph, "L0.ffn.up", inputs=("L0.attn.y", *up.inputs[1:]))
    assert refusal(FuseMoeGateUp(), other) == "expected up of %L0.ffn.x too, got %L0.attn.y"


def test_a_shared_expert_that_is_not_there(layer_graph: Layer) -> None:
    graph, _ = run_passes(layer_graph("swa"), CLEAN)
    gate = graph.producers["L0.ffn.shared.gate"]
    other = changed(graph, "L0.ffn.shared.gate", inputs=("L0.attn.y", gate.inputs[1]))
    assert refusal(FuseMoeGateUp(), other) == "expected one swiglu of linears of %L0.ffn.x, got 0"
    combine = graph.producers["L0.ffn.y"]
    other = changed(graph, "L0.ffn.y", inputs=(combine.inputs[0], "L0.attn.x"))
    wanted = "expected %L0.attn.x to come from linear, got rms_norm"
    assert refusal(FuseMoeDown(), other) == wanted
