"""Family `mhc_head`: the last post for some rows, collapse of the head, final RMSNorm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, Refusal
from dsv4c.codegen.kernels import mhc_site
from dsv4c.codegen.kernels.mhc_site import STREAMS

KIND = "mhc_head"


@dataclass(frozen=True, slots=True)
class Params(mhc_site.Params):
    """As of every site."""


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """Parameters for streams, y, post, comb, rows, fn, base, scale, norm -> x."""
    if len(facts.inputs) < 5:
        return Refusal(f"takes 9 inputs, not {len(facts.inputs)}")
    width = mhc_site.width_of(facts.inputs[0])
    if isinstance(width, Refusal):
        return width
    tokens, rows = facts.inputs[0].dims[0], facts.inputs[4].dims[0]
    inputs = (
        ("streams", "bf16", (tokens, STREAMS, width)),
        ("y", "bf16", (tokens, width)),
        ("post", "f32", (tokens, STREAMS)),
        ("comb", "f32", (tokens, STREAMS, STREAMS)),
        ("rows", "i32", (rows,)),
        ("fn", "f32", (STREAMS, STREAMS * width)),
        ("base", "f32", (STREAMS,)),
        ("scale", "f32", (1,)),
        ("norm", "bf16", (width,)),
    )
    if (found := mhc_site.mismatch(facts, inputs, (("x", "bf16", (rows, width)),))) is not None:
        return found
    return choose(width, *mhc_site.floats(facts.attrs))


def choose(width: int, eps: float = 1e-6, mix_eps: float = 1e-6) -> Params:
    """Parameters; the tiles are those of `dsv4c.codegen.tiles` on either target."""
    return Params(width, eps, mix_eps)


def kernel_name(params: KernelParams, arch: str) -> str:
    """`mhc_head_4096`: the width."""
    return f"{KIND}_{cast(Params, params).width}"


def context(params: KernelParams) -> dict[str, object]:
    """The tiles."""
    return mhc_site.tile_context(KIND, params)
