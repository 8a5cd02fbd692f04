"""What `run --check` found: the worst node of each kind, and the first beyond its bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from dsv4c.runtime.check import NodeCheck


class NodeResult(TypedDict):
    node: str
    kind: str
    impl: str
    layer: int | None
    step: int
    ratio: float | None
    output: str
    ok: bool


class KindResult(TypedDict):
    """`ratio` is the largest |error| / bound of its nodes; None stands for infinite or NaN."""

    kind: str
    impl: str
    checks: int
    failed: int
    ratio: float | None
    worst: str


class Checked(TypedDict):
    ok: bool
    checks: int
    failed: int
    first: NodeResult | None
    kinds: list[KindResult]
    nodes: list[NodeResult]


def checked_view(checks: Sequence[NodeCheck]) -> Checked:
    """Every node of every step, and sums by kind and implementation, worst kind first."""
    groups: dict[tuple[str, str], list[NodeCheck]] = {}
    for one in checks:
        groups.setdefault((one.kind, one.impl), []).append(one)
    kinds = [(max(group, key=_badness), group) for group in groups.values()]
    kinds.sort(key=lambda pair: _badness(pair[0]), reverse=True)
    failed = [one for one in checks if not one.ok]
    return {
        "ok": not failed,
        "checks": len(checks),
        "failed": len(failed),
        "first": _node(failed[0]) if failed else None,
        "kinds": [_kind(worst, group) for worst, group in kinds],
        "nodes": [_node(one) for one in checks],
    }


def _kind(worst: NodeCheck, group: list[NodeCheck]) -> KindResult:
    return {
        "kind": worst.kind,
        "impl": worst.impl,
        "checks": len(group),
        "failed": sum(not one.ok for one in group),
        "ratio": _finite(worst.ratio),
        "worst": worst.node,
    }


def _node(one: NodeCheck) -> NodeResult:
    return {
        "node": one.node,
        "kind": one.kind,
        "impl": one.impl,
        "layer": one.layer,
        "step": one.step,
        "ratio": _finite(one.ratio),
        "output": one.output,
        "ok": one.ok,
    }


def _badness(one: NodeCheck) -> float:
    return one.ratio if one.ratio == one.ratio else float("inf")


def _finite(ratio: float) -> float | None:
    return ratio if ratio < float("inf") else None
