"""Family `step_metadata`: RoPE angles, window slots, window, completed and visible entries at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, Refusal, Scalar
from dsv4c.codegen.tiles.step_metadata import STEP_METADATA

KIND = "step_metadata"
MOST_DIMS = 64  # a pair of dims per lane
# What each op is about; the other attributes of rope_angles are `dims` and those of its frequencies.
ATTRS: Mapping[str, tuple[str, ...]] = {
    "rope_angles": (
        *("dims", "theta", "factor", "original", "beta_fast", "beta_slow"),
        "offset",
    ),
    "window_slots": ("ring",),
    "window_entries": ("ring", "window"),
    "entry_slots": ("ratio", "page"),
    "visible_entries": ("ratio", "page"),
}
_SHORT = {"window_entries": "w", "entry_slots": "c", "visible_entries": "v"}


@dataclass(frozen=True)
class Result:
    """One result: the op that it is of, and the op's attributes in the order of `ATTRS`."""

    op: str
    attrs: tuple[int | float, ...]

    def get(self, name: str) -> int | float:
        """An attribute."""
        return self.attrs[ATTRS[self.op].index(name)]


@dataclass(frozen=True)
class Params(KernelParams):
    """Parameters of one kernel.

    Args:
        results: in order.
        warps: warps per block.
        part: visible entries that a block lists where tokens are few.
        wide_part: where they are many.
        few: so many tokens are few.
        pdl: launch while the previous kernel of the stream drains.
    """

    results: tuple[Result, ...]
    warps: int
    part: int
    wide_part: int
    few: int
    pdl: bool

    def values(self) -> dict[str, Scalar]:
        """The results' ops and attributes, each with the result's number."""
        found: dict[str, Scalar] = {}
        for number, one in enumerate(self.results):
            found[f"op{number}"] = one.op
            names = ATTRS[one.op]
            found |= {f"{n}{number}": v for n, v in zip(names, one.attrs, strict=True)}
        tile = {"warps": self.warps, "part": self.part, "wide_part": self.wide_part}
        return {**found, **tile, "few": self.few, "pdl": self.pdl}


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """Parameters for pos, slot, block_table -> a result per op."""
    for value in facts.inputs:
        if value.role != "tensor" or value.dtype != "i32":
            return Refusal(f"takes i32 tensors, not {value.dtype} of role {value.role}")
    results: list[Result] = []
    for number in range(len(facts.outputs)):
        op = str(facts.attrs.get(f"op{number}"))
        if op not in ATTRS:
            return Refusal(f"result {number} is of {op}; knows {', '.join(ATTRS)}")
        attrs = tuple(facts.attrs[f"{name}{number}"] for name in ATTRS[op])
        results.append(Result(op, cast("tuple[int | float, ...]", attrs)))
    needed = 3 if any(one.op in ("entry_slots", "visible_entries") for one in results) else 2
    if len(facts.inputs) != needed:
        return Refusal(f"takes {needed} inputs for these results, not {len(facts.inputs)}")
    for one in results:
        if one.op == "rope_angles" and not 0 < one.get("dims") <= MOST_DIMS:
            return Refusal(f"angles of {one.get('dims')} dims; takes at most {MOST_DIMS}")
    if sum(one.op == "visible_entries" for one in results) > 1:
        return Refusal("two lists of visible entries; takes one")
    return choose(tuple(results), arch)


def choose(results: tuple[Result, ...], arch: str) -> Params:
    """Parameters with the tiles of `dsv4c.codegen.tiles` for `arch`."""
    tile = STEP_METADATA[arch]
    return Params(results, tile.warps, tile.part, tile.wide_part, tile.few, tile.pdl)


def kernel_name(params: KernelParams, arch: str) -> str:
    """`step_metadata_a4_w128_c4_c128_v128`: tables of angles, window, ratios of entries."""
    results = cast(Params, params).results
    words = [KIND, f"a{sum(one.op == 'rope_angles' for one in results)}"]
    for op, letter in _SHORT.items():
        name = "window" if op == "window_entries" else "ratio"
        words += [f"{letter}{one.get(name)}" for one in results if one.op == op]
    return "_".join(words)


def context(params: KernelParams) -> dict[str, object]:
    """For each op its results: their numbers with their attributes; angles with frequencies."""
    results = cast(Params, params).results
    found: dict[str, list[tuple[object, ...]]] = {op: [] for op in ATTRS}
    for number, one in enumerate(results):
        attrs = (*_angles(one),) if one.op == "rope_angles" else one.attrs
        found[one.op].append((number, *attrs))
    lists: dict[str, object] = {op: tuple(rows) for op, rows in found.items()}
    paged = bool(found["entry_slots"] or found["visible_entries"])
    return lists | {"count": len(results), "paged": paged}


def _angles(one: Result) -> tuple[object, ...]:
    """Pairs, offset of the position, and 32 frequencies, those behind the pairs zero."""
    from dsv4c.ir.ops.rope import rope_frequencies

    dims, theta, factor, original, fast, slow, offset = one.attrs
    freqs = rope_frequencies(int(dims), theta, factor, int(original), fast, slow).tolist()
    pairs = len(freqs)
    return pairs, int(offset), tuple(freqs + [0.0] * (MOST_DIMS // 2 - pairs))
