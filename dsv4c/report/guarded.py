"""What `run --nan-guard` found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from dsv4c.runtime.guard import Finding


class NotFinite(TypedDict):
    """`slot` and `position` say which token, None where an element belongs to no token."""

    node: str
    output: str
    kind: str
    impl: str
    layer: int | None
    tensors: list[str]
    step: int
    slot: int | None
    position: int | None
    index: list[int]
    value: str
    count: int


class Guarded(TypedDict):
    ok: bool
    first: NotFinite | None
    saved: str | None


def guarded_view(found: Finding | None, saved: Path) -> Guarded:
    """The finding, and where its operands are saved."""
    if found is None:
        return {"ok": True, "first": None, "saved": None}
    node = found.captured.node
    first: NotFinite = {
        "node": node.name,
        "output": found.output,
        "kind": node.kind,
        "impl": node.impl,
        "layer": node.origin.layer,
        "tensors": list(node.origin.tensors),
        "step": found.step,
        "slot": found.slot,
        "position": found.position,
        "index": list(found.index),
        "value": found.value,
        "count": found.count,
    }
    return {"ok": False, "first": first, "saved": str(saved)}
