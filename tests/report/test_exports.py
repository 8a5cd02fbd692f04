"""The exports: Graphviz text, Model Explorer's collection, the Perfetto trace."""

from __future__ import annotations

import json
import re

import pytest

from dsv4c.events import EventLog, Json
from dsv4c.ir.graph import Graph
from dsv4c.ir.text import parse
from dsv4c.plan.plan import Plan
from dsv4c.report.export_dot import dot_text
from dsv4c.report.export_model_explorer import graph_collection
from dsv4c.report.export_perfetto import PASSES, PHASES, WORKERS, TraceEvent, trace
from dsv4c.report.selection import Selection

EVERYTHING = Selection()
_STRING = r'"(?:[^"\\]|\\.)*"'


@pytest.fixture(scope="module")
def graph() -> Graph:
    return parse("""graph "a \\"b\\"" stage(planned) {
  in %x: f32[T, 8]
  in %w: weight<f32>[8] = "layers.1.norm.weight"
  %L1.attn.n: f32[T, 8] = fused.pair(%x, %w) @ L1 "layers.1.norm.weight" ! pair_8[0] {
    %L1.attn.m: f32[T, 8] = rms_norm(%x, %w) {eps=1e-06} @ L1 "layers.1.norm.weight"
    %L1.attn.n: f32[T, 8] = head_norm(%L1.attn.m) {eps=1e-06} @ L1
  }
  %L1.y: f32[T, 8] = head_norm(%L1.attn.n) {eps=1e-06} @ L1 ! reference[1]
  return %L1.y
}
""")


def test_dot(graph: Graph) -> None:
    assert dot_text(graph, EVERYTHING) == (
        'digraph "a \\"b\\"" {\n'
        '  node [shape=box, fontname="sans-serif"];\n'
        "  subgraph cluster_1 {\n"
        '    label="layer 1";\n'
        '    "L1.attn.n" [label="fused.pair\\nL1.attn.n\\npair_8", style=filled,'
        " fillcolor=lightblue, peripheries=2];\n"
        '    "L1.y" [label="head_norm\\nL1.y"];\n'
        "  }\n"
        '  "L1.attn.n" -> "L1.y" [tooltip="L1.attn.n"];\n'
        "}\n"
    )


def test_dot_of_a_plan_has_every_node_and_edge(small_plan: Plan) -> None:
    text = dot_text(small_plan.graph, EVERYTHING)
    named = re.findall(rf"^ +({_STRING}) \[label=", text, re.MULTILINE)
    assert [json.loads(name) for name in named] == [
        node.name
        for layer in dict.fromkeys(node.origin.layer for node in small_plan.graph.nodes)
        for node in small_plan.graph.nodes
        if node.origin.layer == layer
    ]
    ends = re.findall(rf"^  ({_STRING}) -> ({_STRING}) \[", text, re.MULTILINE)
    assert {end for pair in ends for end in pair} <= set(named)
    made = {value for node in small_plan.graph.nodes for value in node.outputs}
    edges = sum(len(made & set(node.inputs)) for node in small_plan.graph.nodes)
    assert len(ends) == edges
    assert text.count("{") == text.count("}")
    one = dot_text(small_plan.graph, Selection(layer=2))
    assert re.findall(r"cluster_\d+", one) == ["cluster_2"]


def test_model_explorer_nests_bodies(graph: Graph) -> None:
    collection = graph_collection(graph, EVERYTHING, "label")
    (drawn,) = collection["graphs"]
    nodes = {node["id"]: node for node in drawn["nodes"]}
    assert list(nodes) == ["x", "w", "L1.attn.n/L1.attn.m", "L1.attn.n/L1.attn.n", "L1.y"]
    inner = nodes["L1.attn.n/L1.attn.m"]
    assert (inner["label"], inner["namespace"]) == (
        "rms_norm",
        "layer 01/attn/fused.pair L1.attn.n",
    )
    assert [edge["sourceNodeId"] for edge in inner["incomingEdges"]] == ["x", "w"]
    assert nodes["L1.y"]["incomingEdges"] == [
        {
            "sourceNodeId": "L1.attn.n/L1.attn.n",
            "sourceNodeOutputId": "0",
            "targetNodeInputId": "0",
        }
    ]


def test_model_explorer_of_a_plan_is_connected(small_plan: Plan) -> None:
    for selection in (EVERYTHING, Selection(layer=1)):
        (drawn,) = graph_collection(small_plan.graph, selection, "small")["graphs"]
        nodes = {node["id"]: node for node in drawn["nodes"]}
        assert len(nodes) == len(drawn["nodes"])
        for node in drawn["nodes"]:
            for edge in node["incomingEdges"]:
                source = nodes[edge["sourceNodeId"]]
                ids = [output["id"] for output in source["outputsMetadata"]]
                assert edge["sourceNodeOutputId"] in ids
            values = [pair["value"] for pair in node["attrs"]]
            assert all(isinstance(value, str) for value in values)


def test_the_trace_of_a_compile(small_plan: Plan) -> None:
    lines = (small_plan.path / "events.jsonl").read_text("utf-8").splitlines()
    made = trace([json.loads(line) for line in lines], "small")
    slices = [one for one in made["traceEvents"] if one.get("ph") == "X"]
    phases = {one.get("name") for one in slices if one.get("tid") == PHASES}
    assert phases >= {"read checkpoint", "build graph", "passes", "weights"}
    ran = [one.get("name") for one in slices if one.get("tid") == PASSES]
    assert ran == [one.name for one in small_plan.manifest.passes]
    assert_nested(made["traceEvents"])


def test_kernels_of_the_same_time_take_tracks_of_their_own() -> None:
    ends = {"a": (4.0, 3.0), "b": (5.0, 4.5), "c": (5.5, 0.25), "d": (6.0, 0.0)}
    events: list[dict[str, Json]] = [
        {"t": t, "kind": "kernel", "name": name, "status": "compiled", "seconds": spent}
        for name, (t, spent) in ends.items()
    ]
    made = trace(events, "x")["traceEvents"]
    tracks = {one.get("name"): one.get("tid", 0) - WORKERS for one in made if one["ph"] == "X"}
    assert tracks == {"a": 0, "b": 1, "c": 0, "d": 0}
    names = {one.get("tid"): one.get("args") for one in made if one.get("name") == "thread_name"}
    assert names[WORKERS + 1] == {"name": "kernels 2"}
    assert_nested(made)


def test_nested_phases_and_errors_in_a_trace() -> None:
    log = EventLog()
    with pytest.raises(ValueError, match="no"), log.phase("outer", tokens=3), log.phase("inner"):
        raise ValueError("no")
    log.event("error", type="ValueError", message="no")
    made = trace(log.records, "x")["traceEvents"]
    found = {one.get("name"): one for one in made}
    assert found["outer"].get("args") == {"tokens": 3, "ok": False}
    assert found["ValueError"].get("ph") == "i"
    assert_nested(made)


def assert_nested(events: list[TraceEvent]) -> None:
    """Slices of one track are disjoint or one inside the other."""
    tracks: dict[int, list[tuple[float, float]]] = {}
    for one in events:
        if one["ph"] == "X":
            begin, track = one.get("ts", 0.0), one.get("tid", 0)
            tracks.setdefault(track, []).append((begin, begin + one.get("dur", 0.0)))
    for slices in tracks.values():
        slices.sort(key=lambda pair: (pair[0], -pair[1]))
        for i, (begin, end) in enumerate(slices):
            for other, stop in slices[i + 1 :]:
                assert other >= end - 1e-2 or stop <= end + 1e-2, (begin, end, other, stop)
