"""The stages of a report against the plan's own IR files, and the arena against its rules."""

from __future__ import annotations

import itertools

import pytest

from dsv4c.ir.graph import Graph
from dsv4c.ir.text import parse
from dsv4c.plan.plan import Plan
from dsv4c.report.arena import arena_view
from dsv4c.report.export_json import ReportView
from dsv4c.report.history import Records


def nodes_of(report: ReportView, index: int) -> list[int]:
    nodes = report["stages"][index]["nodes"]
    return nodes if nodes is not None else nodes_of(report, index - 1)


def name_of(report: ReportView, number: int) -> str:
    return report["records"][number]["outputs"][0][0]


def test_every_stage_is_the_graph_of_its_file(small_plan: Plan, small_report: ReportView) -> None:
    for stage in small_report["stages"]:
        found = list((small_plan.path / "ir").glob(f"{stage['index']:02d}_*.ir"))
        assert bool(found) == stage["modified"]
        if found:
            graph = parse(found[0].read_text("utf-8"))
            records = [small_report["records"][i] for i in nodes_of(small_report, stage["index"])]
            assert [one["kind"] for one in records] == [node.kind for node in graph.nodes]
            assert [one["inputs"] for one in records] == [list(node.inputs) for node in graph.nodes]
            assert stage["stage"] == graph.stage
            assert stage["after"] == len(graph.nodes)


def test_a_fusion_keeps_the_records_of_its_parts(small_report: ReportView) -> None:
    names = [stage["name"] for stage in small_report["stages"]]
    at = names.index("fuse_qnorm_rope_quant")
    before, after = set(nodes_of(small_report, at - 1)), set(nodes_of(small_report, at))
    made = [small_report["records"][i] for i in after - before]
    assert [one["kind"] for one in made] == ["fused.qnorm_rope_kv_insert"] * 4
    assert {part for one in made for part in one["body"]} == before - after


def test_lowering_changes_no_record(small_report: ReportView) -> None:
    lower, places = small_report["stages"][-2:]
    assert (lower["name"], lower["nodes"], lower["modified"]) == ("lower", None, True)
    assert lower["annotated"] == places["annotated"] == len(small_report["schedule"])


def test_records_are_not_repeated(small_report: ReportView) -> None:
    seen = [repr(record) for record in small_report["records"]]
    assert len(set(seen)) == len(seen)


def test_a_record_differs_where_the_node_does() -> None:
    def graph(line: str) -> Graph:
        return parse(f'graph "g" stage(model) {{\n  in %x: f32[T, 4]\n{line}\n  return %y\n}}\n')

    lines = [
        "%y: f32[T, 4] = head_norm(%x) {eps=1e-06}",
        "%y: f32[T, 4] = head_norm(%x) {eps=1e-05}",
        "%y: bf16[T, 4] = head_norm(%x) {eps=1e-06}",
        "%y: f32[T, 4] = head_norm(%x) {eps=1e-06} @ L1",
        '%y: f32[T, 4] = head_norm(%x) {eps=1e-06} @ L1 "w"',
    ]
    records = Records()
    graphs = [graph(line) for line in [*lines, *lines]]
    assert [records.add(one.nodes[0], one) for one in graphs] == [0, 1, 2, 3, 4] * 2


def test_the_arena_of_a_plan(small_plan: Plan, small_report: ReportView) -> None:
    arena = small_report["memory"]["arena"]
    assert arena is not None
    assert all(0 <= one["offset"] <= arena["bytes"] - one["bytes"] for one in arena["intervals"])
    for one, other in itertools.combinations(arena["intervals"], 2):
        together = one["begin"] <= other["end"] and other["begin"] <= one["end"]
        apart = one["offset"] + one["bytes"], other["offset"] + other["bytes"]
        assert not together or other["offset"] >= apart[0] or one["offset"] >= apart[1]
    sums = [
        sum(one["bytes"] for one in arena["intervals"] if one["begin"] <= at <= one["end"])
        for at in range(len(small_plan.graph.nodes))
    ]
    assert arena["live"] == sums
    assert max(sums) <= arena["least"] <= arena["bytes"]
    made = small_plan.manifest.arena
    assert (arena["bytes"], arena["least"], arena["step"]) == (made.bytes, made.live, made.step)


def test_a_view_keeps_its_operand_alive() -> None:
    graph = parse(
        'graph "g" stage(planned) step(T=2) {\n  in %x: f32[T, 8]\n'
        "  %a: f32[T, 8] = head_norm(%x) {eps=1e-06} ! reference[0]\n"
        "  %v: f32[T, 2, 4] = view(%a) {shape=[2, 4]} ! reference[0]\n"
        "  %b: f32[T, 8] = head_norm(%x) {eps=1e-06} ! reference[256]\n"
        "  %c: f32[T, 2, 4] = head_norm(%v) {eps=1e-06} ! reference[512]\n  return %c\n}\n"
    )
    arena = arena_view(graph)
    assert [(one["value"], one["begin"], one["end"]) for one in arena["intervals"]] == [
        ("a", 0, 3),
        ("b", 2, 2),
        ("c", 3, 3),
    ]
    assert arena["live"] == [64, 64, 128, 128]
    assert (arena["bytes"], arena["least"]) == (768, 512)


def test_costs_of_the_schedule(small_report: ReportView) -> None:
    kinds = [small_report["records"][i]["kind"] for i in nodes_of(small_report, -1)]
    for kind, got in zip(kinds, small_report["schedule"], strict=True):
        assert got["decode"]["flops"] <= got["prefill"]["flops"]
        assert got["prefill"]["saved"] >= 0
        assert kind.startswith("fused.") or not got["prefill"]["saved"], kind


@pytest.mark.slow
def test_pro(pro_report: ReportView) -> None:
    assert len(pro_report["plan"]["layers"]) == 61
    stages = pro_report["stages"]
    for index, stage in enumerate(stages):
        assert len(nodes_of(pro_report, index)) == stage["after"]
    assert {kernel["name"] for kernel in pro_report["kernels"]} == {
        got["impl"] for got in pro_report["schedule"] if got["impl"] != "reference"
    }
    names = {name_of(pro_report, i) for i in nodes_of(pro_report, -1)}
    assert {node for kernel in pro_report["kernels"] for node in kernel["nodes"]} <= names
    assert all(kernel["source"].startswith("# Kernel ") for kernel in pro_report["kernels"])
