"""What `diff --numeric` found: the largest difference of each kind, and the first that is too large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from dsv4c.runtime.compare import Compared


class ValueResult(TypedDict):
    """`ratio` is |b - a| / bound, None for infinite; `since` are B's nodes since a common value."""

    value: str
    node: str
    other: str
    kind: str
    impl: str
    layer: int | None
    step: int
    since: list[str]
    ratio: float | None


class KindDiff(TypedDict):
    kind: str
    values: int
    unequal: int
    ratio: float | None
    worst: str


class NumericDiff(TypedDict):
    ok: bool
    values: int
    unequal: int
    first: ValueResult | None
    kinds: list[KindDiff]


def compared_view(compared: Sequence[Compared]) -> NumericDiff:
    """Sums by the kind of B's node, worst first; the last value is the only one that may differ."""
    groups: dict[str, list[Compared]] = {}
    for one in compared:
        groups.setdefault(one.kind, []).append(one)
    kinds = [_kind(name, group) for name, group in groups.items()]
    kinds.sort(key=lambda kind: kind["ratio"] if kind["ratio"] is not None else float("inf"))
    wrong = [one for one in compared if not one.ok]
    return {
        "ok": not wrong,
        "values": len(compared),
        "unequal": sum(one.ratio != 0 for one in compared),
        "first": _value(wrong[0]) if wrong else None,
        "kinds": kinds[::-1],
    }


def _kind(name: str, group: list[Compared]) -> KindDiff:
    worst = max(group, key=lambda one: one.ratio)
    unequal = sum(one.ratio != 0 for one in group)
    return {
        "kind": name,
        "values": len(group),
        "unequal": unequal,
        "ratio": _finite(worst.ratio),
        "worst": worst.value,
    }


def _value(one: Compared) -> ValueResult:
    return {
        "value": one.value,
        "node": one.node,
        "other": one.other,
        "kind": one.kind,
        "impl": one.impl,
        "layer": one.layer,
        "step": one.step,
        "since": list(one.since),
        "ratio": _finite(one.ratio),
    }


def _finite(ratio: float) -> float | None:
    return ratio if ratio < float("inf") else None
