"""Family `mhc_first`: embedding, copies in all streams, pre of the first site, RMSNorm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, Refusal
from dsv4c.codegen.kernels import mhc_site
from dsv4c.codegen.kernels.mhc_site import ROWS, STREAMS

KIND = "mhc_first"


@dataclass(frozen=True, slots=True)
class Params(mhc_site.Params):
    """As of every site, the Sinkhorn rounds `iters`, and the rows `vocab` of the table."""

    iters: int
    vocab: int


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """Parameters for ids, table, fn, base, scale, norm -> streams, post, comb, x."""
    if not facts.outputs or len(facts.inputs) < 2:
        return Refusal(f"takes 6 inputs, not {len(facts.inputs)}")
    width = mhc_site.width_of(facts.outputs[0])
    if isinstance(width, Refusal):
        return width
    rows, table = facts.inputs[0].dims[0], facts.inputs[1]
    vocab = table.dims[0]
    if not isinstance(vocab, int):
        return Refusal(f"the table's rows must be known, not {vocab}")
    inputs = (
        ("ids", "i32", (rows,)),
        ("table", "bf16", (vocab, width)),
        ("fn", "f32", (ROWS, STREAMS * width)),
        ("base", "f32", (ROWS,)),
        ("scale", "f32", (3,)),
        ("norm", "bf16", (width,)),
    )
    outputs = (
        ("streams", "bf16", (rows, STREAMS, width)),
        ("post", "f32", (rows, STREAMS)),
        ("comb", "f32", (rows, STREAMS, STREAMS)),
        ("x", "bf16", (rows, width)),
    )
    if (found := mhc_site.mismatch(facts, inputs, outputs)) is not None:
        return found
    iters = int(facts.attrs.get("iters", 20))
    return choose(width, vocab, *mhc_site.floats(facts.attrs), iters)


def choose(
    width: int, vocab: int, eps: float = 1e-6, mix_eps: float = 1e-6, iters: int = 20
) -> Params:
    """Parameters; the tiles are those of `dsv4c.codegen.tiles` on either target."""
    return Params(width, eps, mix_eps, iters, vocab)


def kernel_name(params: KernelParams, arch: str) -> str:
    """`mhc_first_4096_v129280`: width and vocabulary."""
    chosen = cast(Params, params)
    return f"{KIND}_{chosen.width}_v{chosen.vocab}"


def context(params: KernelParams) -> dict[str, object]:
    """The tiles."""
    return mhc_site.tile_context(KIND, params)
