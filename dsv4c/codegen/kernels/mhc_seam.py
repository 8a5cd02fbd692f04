"""Family `mhc_seam`: post of one site of hyper-connections, pre of the next, RMSNorm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, Refusal
from dsv4c.codegen.kernels import mhc_site
from dsv4c.codegen.kernels.mhc_site import ROWS, STREAMS

KIND = "mhc_seam"


@dataclass(frozen=True, slots=True)
class Params(mhc_site.Params):
    """As of every site, and the Sinkhorn rounds `iters`."""

    iters: int


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """Parameters for streams, y, post, comb, fn, base, scale, norm -> streams', post', comb', x."""
    if not facts.inputs:
        return Refusal("takes 8 inputs and 4 outputs, not 0")
    width = mhc_site.width_of(facts.inputs[0])
    if isinstance(width, Refusal):
        return width
    rows = facts.inputs[0].dims[0]
    streams = ("streams", "bf16", (rows, STREAMS, width))
    post, comb = ("post", "f32", (rows, STREAMS)), ("comb", "f32", (rows, STREAMS, STREAMS))
    y = ("y", "bf16", (rows, width))
    weights = (
        ("fn", "f32", (ROWS, STREAMS * width)),
        ("base", "f32", (ROWS,)),
        ("scale", "f32", (3,)),
        ("norm", "bf16", (width,)),
    )
    outputs = (streams, post, comb, ("x", "bf16", (rows, width)))
    if (found := mhc_site.mismatch(facts, (streams, y, post, comb, *weights), outputs)) is not None:
        return found
    return choose(width, *mhc_site.floats(facts.attrs), int(facts.attrs.get("iters", 20)))


def choose(width: int, eps: float = 1e-6, mix_eps: float = 1e-6, iters: int = 20) -> Params:
    """Parameters; the tiles are those of `dsv4c.codegen.tiles` on either target."""
    return Params(width, eps, mix_eps, iters)


def kernel_name(params: KernelParams, arch: str) -> str:
    """`mhc_seam_4096`: the width."""
    return f"{KIND}_{cast(Params, params).width}"


def context(params: KernelParams) -> dict[str, object]:
    """The tiles."""
    return mhc_site.tile_context(KIND, params)
