"""Planted defects: `run --check` and `diff --numeric` name the node that is wrong, and no other."""

from __future__ import annotations

from pathlib import Path

import defects
import pytest
import small
import torch
from defects import FP8, PLAIN, Defect

import dsv4c
from dsv4c.codegen.lower import Lower
from dsv4c.errors import DsvError
from dsv4c.ir.graph import Graph
from dsv4c.ir.text import parse
from dsv4c.passes.assign_buffers import AssignBuffers
from dsv4c.passes.base import run_passes
from dsv4c.pipeline import largest_step
from dsv4c.plan.plan import Plan
from dsv4c.runtime.check import check
from dsv4c.runtime.compare import Compared, compare

IDS = torch.randint(2, small.VOCAB, (140,), generator=torch.Generator().manual_seed(3)).tolist()


@pytest.fixture(scope="module")
def clamped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose activations reach the SwiGLU clamp."""
    return small.write_small(tmp_path_factory.mktemp("small") / "model", swiglu_limit=0.4)


@pytest.fixture(scope="module")
def plain(clamped: Path) -> Plan:
    return dsv4c.compile(clamped, clamped.parent / "plain", dtype="float32", kv_cache="f32")


@pytest.fixture(scope="module")
def fp8(clamped: Path) -> Plan:
    return dsv4c.compile(clamped, clamped.parent / "fp8")


def unfused(plan: Plan) -> Plan:
    """The same model as built, every op a node of its own."""
    graph = parse((plan.path / "ir" / "00_model.ir").read_text(encoding="utf-8"))
    return like(plan, run_passes(graph, [Lower("cpu"), AssignBuffers(largest_step(512))])[0])


def like(plan: Plan, graph: Graph) -> Plan:
    return Plan(plan.path, plan.manifest, graph)


def compared(a: Plan, b: Plan, defect: Defect | None = None) -> list[Compared]:
    one, other = a.session(1, 256), b.session(1, 256)
    if defect is not None:
        defect.plant(other.executor)
    return compare(one, other, IDS)


def test_there_are_enough_defects() -> None:
    assert len({defect.name for defect in (*PLAIN, *FP8)}) >= 30
    assert len({defect.node for defect in (*PLAIN, *FP8)}) >= 20


@pytest.mark.parametrize("defect", PLAIN, ids=lambda defect: defect.name)
def test_check_names_a_wrong_kernel(defect: Defect, plain: Plan) -> None:
    session = plain.session(1, 256)
    defect.plant(session.executor)
    assert {one.node for one in check(session, IDS) if not one.ok} == {defect.node}


@pytest.mark.parametrize("defect", PLAIN, ids=lambda defect: defect.name)
def test_diff_names_a_wrong_kernel(defect: Defect, plain: Plan) -> None:
    *before, last = compared(plain, plain, defect)
    assert (last.node, last.ok) == (defect.node, False)
    assert all(one.ratio == 0 for one in before if one.node != defect.node)


@pytest.mark.parametrize("defect", FP8, ids=lambda defect: defect.name)
def test_wrong_bytes_of_a_cache_are_named(defect: Defect, fp8: Plan) -> None:
    assert compared(fp8, fp8, defect)[-1].node == defect.node
    session = fp8.session(1, 256)
    defect.plant(session.executor)
    first = next(one for one in check(session, IDS) if not one.ok)
    assert first.node == defect.node


EDITS = [defect for defect in PLAIN if defect.edit is not None]


@pytest.mark.parametrize("defect", EDITS, ids=lambda defect: defect.name)
def test_diff_names_what_a_wrong_rule_made(defect: Defect, plain: Plan) -> None:
    """Against the graph as built, which is not fused: values are aligned by name."""
    last = compared(unfused(plain), like(plain, defect.rewrite(plain.graph)))[-1]
    assert (last.node, last.ok) == (defect.node, False)


def test_the_unfused_side_may_be_the_wrong_one(plain: Plan) -> None:
    """The defect sits on a value that the fused plan never makes: the chain to it is told."""
    graph = unfused(plain).graph
    wrong = defects.operand("scores halved", "L2.attn.scores", 0, lambda q: 0.5 * q)
    last = compared(plain, like(plain, graph), wrong)[-1]
    assert (last.node, last.ok) == ("L2.attn.o", False)
    assert last.since[-3:] == ("L2.attn.scores", "L2.attn.probs", "L2.attn.o")


@pytest.mark.parametrize("kind", ["plain", "fp8"])
def test_right_plans_agree_however_they_are_fused(
    kind: str, request: pytest.FixtureRequest
) -> None:
    plan: Plan = request.getfixturevalue(kind)
    for a, b in ((plan, plan), (plan, unfused(plan)), (unfused(plan), plan)):
        found = compared(a, b)
        assert len(found) > 250
        assert {one.step for one in found} == {1, 2}
        assert all(one.ok for one in found)


def test_plans_with_other_types_are_refused(plain: Plan, fp8: Plan) -> None:
    with pytest.raises(DsvError, match="DSV101: the plans' values have other types"):
        compared(plain, fp8)


def test_other_weights_are_found_at_the_first_node_that_reads_them(
    plain: Plan, tmp_path: Path
) -> None:
    other = small.write_small(tmp_path / "model", seed=1, swiglu_limit=0.4)
    plan = dsv4c.compile(other, tmp_path / "plan", dtype="float32", kv_cache="f32")
    last = compared(plain, plan)[-1]
    assert (last.node, last.ok) == ("streams", False)


def test_only_live_values_are_held(plain: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    from dsv4c.runtime import compare as module

    most = 0
    run_b = module._Lockstep._run_b  # pyright: ignore[reportPrivateUsage]

    def watched(self: module._Lockstep, node: object) -> object:  # pyright: ignore
        nonlocal most
        held = [set(one.values) - set(one.executor.constants) for one in (self.a, self.b)]
        most = max(most, len(held[0] | held[1]))
        return run_b(self, node)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(module._Lockstep, "_run_b", watched)  # pyright: ignore
    compared(plain, plain)
    values = sum(len(node.outputs) for node in plain.graph.nodes)
    assert 10 < most < values / 4


def test_the_callers_slots_are_free_again(plain: Plan) -> None:
    one, other = plain.session(1, 256), plain.session(1, 256)
    compare(one, other, IDS[:3])
    assert (one.open(), other.open()) == (0, 0)
