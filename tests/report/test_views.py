from __future__ import annotations

import msgspec
import pytest

from dsv4c.events import EventLog, Json
from dsv4c.ir.graph import Graph
from dsv4c.ir.text import parse, show
from dsv4c.passes.base import PassRecord, Remark
from dsv4c.pipeline import pipeline
from dsv4c.plan.manifest import Kernel, Tile
from dsv4c.report.ir import ir_view
from dsv4c.report.kernels import kernels_view
from dsv4c.report.memory import memory_view
from dsv4c.report.passes import fusion_rules, passes_view, record_pass
from dsv4c.report.selection import Selection
from dsv4c.report.weights import weights_view

TEXT = """graph "tiny" stage(planned) {
  in %ids: i32[T]
  in %slots: i32[T]
  in %embed: weight<bf16>[64, 256] = "embed.weight"
  in %layers.1.w: weight<fp8_128>[128, 256] = "layers.1.w.weight", "layers.1.w.scale"
  in %L0.window: cache<fp8, width=512, rope=64, page=128, ring=256>
  in %L1.rows: rows<8, 1024>
  %x: bf16[T, 256] = embed(%ids, %embed) {dtype="bf16"} @ "embed.weight" ! reference[0]
  %L1.y: bf16[T, 128] = linear(%x, %layers.1.w) {dtype="bf16"} @ L1 "layers.1.w.weight" ! linear_fp8[1]
  return %L1.y
}
"""
ALL = Selection()


@pytest.fixture(scope="module")
def graph() -> Graph:
    return parse(TEXT)


def test_selection() -> None:
    assert ALL.everything
    assert ALL.takes(None, "x")
    assert not Selection(layer=1).takes(None, "x")
    assert Selection(layer=1).takes(1, "x")
    assert Selection(pattern="L?.attn.*").takes(3, "other", "L3.attn.q")
    assert not Selection(1, "L?.*").takes(2, "L2.q")


def test_ir_text_parses_again_and_filters(graph: Graph) -> None:
    def text(selection: Selection) -> str:
        return ir_view(graph, selection)["text"]

    assert text(ALL) == show(graph)
    assert text(Selection(layer=1)).startswith("%L1.y: bf16[T, 128] = linear(")
    assert text(Selection(layer=1)).count("\n") == 1
    assert text(Selection(pattern="embed")).startswith("%x: ")
    assert text(Selection(pattern="linear_fp8")).startswith("%L1.y: ")
    assert text(Selection(layer=7)) == ""


def test_ir_view(graph: Graph) -> None:
    view = ir_view(graph, Selection(layer=1))
    assert (view["graph"], view["stage"]) == ("tiny", "planned")
    assert view["nodes"] == [
        {
            "name": "L1.y",
            "kind": "linear",
            "inputs": [
                {"name": "x", "type": "bf16[T, 256]"},
                {"name": "layers.1.w", "type": "weight<fp8_128>[128, 256]"},
            ],
            "outputs": [{"name": "L1.y", "type": "bf16[T, 128]"}],
            "attrs": {"dtype": "bf16"},
            "layer": 1,
            "tensors": ["layers.1.w.weight"],
            "impl": "linear_fp8",
            "body": [],
        }
    ]


def test_weights_by_format(graph: Graph) -> None:
    view = weights_view(graph, ALL)
    assert view["formats"] == [
        {"format": "fp8_128", "weights": 1, "parameters": 32768, "bytes": 32768 + 2},
        {"format": "bf16", "weights": 1, "parameters": 16384, "bytes": 32768},
    ]
    (weight,) = weights_view(graph, Selection(layer=1))["weights"]
    assert weight == {
        "name": "layers.1.w",
        "layer": 1,
        "format": "fp8_128",
        "dims": [128, 256],
        "parameters": 32768,
        "bytes": 32770,
        "tensors": ["layers.1.w.weight", "layers.1.w.scale"],
    }
    by_tensor = weights_view(graph, Selection(pattern="embed.*"))
    assert [weight["name"] for weight in by_tensor["weights"]] == ["embed"]


def test_memory_of_states(graph: Graph) -> None:
    view = memory_view(graph, ALL)
    assert view["weights"] == 32768 + 32770
    sizes = {s["name"]: (s["bytes_per_slot"], s["bytes_per_page"]) for s in view["states"]}
    assert sizes == {"L0.window": (2 * 74_880, 0), "L1.rows": (8 * 1024 * 4, 0)}
    assert view["bytes_per_slot"] == 2 * 74_880 + 32_768
    assert view["arena"] is None


def test_kernels_and_what_is_left_to_torch(graph: Graph) -> None:
    made = Kernel("linear_fp8", "linear", "sm_90a", {}, "key", ["L1.y"], 168, 0, 4096)
    view = kernels_view(graph, ALL, {"linear_fp8": made})
    assert view == {
        "kernels": [
            {
                "name": "linear_fp8",
                "nodes": 1,
                "layers": [1],
                "registers": 168,
                "spills": 0,
                "smem": 4096,
                "tiles": [],
            }
        ],
        "reference": [{"kind": "embed", "nodes": 1}],
        "reference_nodes": 1,
        "graphs": False,
    }
    tile = Tile("linears", 8, {"rows": 16}, "measured on CARD")
    made = msgspec.structs.replace(made, tiles=[tile])
    assert kernels_view(graph, ALL, {"linear_fp8": made})["kernels"][0]["tiles"] == [
        {"kind": "linears", "most": 8, "values": {"rows": 16}, "origin": "measured on CARD"}
    ]
    assert kernels_view(graph, Selection(layer=1), {})["reference_nodes"] == 0
    assert kernels_view(graph, ALL, {})["kernels"][0]["registers"] is None


def test_passes_from_the_event_log(graph: Graph) -> None:
    remarks = (
        Remark("fuse_x", "applied", "L0.a", 0, "x of 3 nodes"),
        Remark("fuse_x", "refused", "L1.a", 1, "expected c % 64 == 0, got 65"),
        Remark("fuse_x", "refused", "L2.a", 2, "expected c % 64 == 0, got 66"),
    )
    log = EventLog()
    record_pass(log, PassRecord(1, "canonicalize", False, 9, 9, 0.25, (), graph))
    record_pass(log, PassRecord(2, "fuse_x", True, 9, 7, 0.5, remarks, graph, 3))
    view = passes_view(log.records, ALL)
    assert view["passes"][1] == {
        "index": 2,
        "name": "fuse_x",
        "modified": True,
        "nodes_before": 9,
        "nodes_after": 7,
        "seconds": 0.5,
        "candidates": 3,
    }
    assert view["rules"] == [{"rule": "fuse_x", "applied": 1, "refused": 2}]
    (refused,) = passes_view(log.records, Selection(layer=2))["remarks"]
    assert refused["text"] == "expected c % 64 == 0, got 66"


def test_other_events_are_ignored() -> None:
    other: list[dict[str, Json]] = [{"kind": "log", "t": 0.0}, {"kind": "phase_end", "t": 1.0}]
    view = passes_view(other, ALL)
    assert (view["passes"], view["rules"], view["remarks"]) == ([], [], [])


def test_a_rule_that_looked_at_nothing_or_never_ran_is_a_warning(graph: Graph) -> None:
    log = EventLog()
    rules = fusion_rules()
    assert "fuse_gather_gemm" in rules
    for number, name in enumerate(rules[:-1], 1):
        looked = 0 if name == "fuse_gather_gemm" else 5
        record_pass(log, PassRecord(number, name, False, 9, 9, 0.1, (), graph, looked))
    record_pass(log, PassRecord(99, "assign_buffers", True, 9, 9, 0.1, (), graph))
    assert passes_view(log.records, Selection(layer=3))["warnings"] == [
        f"rule {rules[-1]} never ran",
        "rule fuse_gather_gemm looked at no node: its anchor is nowhere",
    ]


def test_every_fusion_of_the_folder_is_in_the_pipeline() -> None:
    names = [one.name for one in pipeline("cpu", {})]
    assert [rule for rule in fusion_rules() if rule not in names] == []
