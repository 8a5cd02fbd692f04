"""What the families mhc_seam, mhc_first and mhc_head share: operands, tiles, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, Refusal, Scalar, ValueFacts
from dsv4c.codegen.tiles.mhc_site import MHC_SITE, SiteTile
from dsv4c.codegen.tuned import tuned

STREAMS, ROWS, SLICE = 4, 24, 32
MOST_WARPS = 16  # of a group
SHARED_BYTES = 200 * 1024  # for fn, of the 227 KiB of a block

Expected = tuple[str, str, tuple[int | str, ...]]


@dataclass(frozen=True, slots=True)
class Params(KernelParams):
    """What decides the kernel's text.

    Args:
        width: channels d of a stream.
        eps: added to the mean of squares, of the streams and of x.
        mix_eps: added to the coefficients and to the sums that they are divided by.
    """

    width: int
    eps: float
    mix_eps: float


def mismatch(
    facts: NodeFacts, inputs: Sequence[Expected], outputs: Sequence[Expected]
) -> Refusal | None:
    """Why operands or results are not those of the template, or None."""
    given = (*facts.inputs, *facts.outputs)
    if (len(facts.inputs), len(facts.outputs)) != (len(inputs), len(outputs)):
        return Refusal(
            f"takes {len(inputs)} inputs and {len(outputs)} outputs,"
            f" not {len(facts.inputs)} and {len(facts.outputs)}"
        )
    for (name, dtype, dims), value in zip((*inputs, *outputs), given, strict=True):
        if (value.dtype, value.dims) != (dtype, dims):
            found = f"{value.dtype} {list(value.dims)}"
            return Refusal(f"{name} is {found}; takes {dtype} {list(dims)}")
    return None


def width_of(streams: ValueFacts) -> int | Refusal:
    """Channels of [T, 4, d], for which there are tiles."""
    if len(streams.dims) != 3 or streams.dims[1] != STREAMS:
        return Refusal(f"streams are {list(streams.dims)}; takes [T, {STREAMS}, d]")
    width = streams.dims[2]
    if not isinstance(width, int):
        return Refusal(f"the width must be known, not {width}")
    if not site_tiles("", width):
        return Refusal(
            f"width {width}: not a multiple of {SLICE} whose {ROWS} x {STREAMS * width} weights"
            " fit a cluster of 16 blocks of 4 to 16 warps"
        )
    return width


def floats(attrs: Mapping[str, Scalar]) -> tuple[float, float]:
    """The two epsilons of a node."""
    return float(attrs.get("eps", 1e-6)), float(attrs.get("mix_eps", 1e-6))


def site_tiles(kind: str, width: int) -> tuple[SiteTile, ...]:
    """The tiles of a width, from the table or by rule; none if no cluster fits it."""
    if (kind, width) in MHC_SITE:
        return MHC_SITE[kind, width]
    for blocks in (1, 2, 4, 8, 16):
        for slices in (1, 2, 3, 4):
            warps, rest = divmod(width, blocks * slices * SLICE)
            fits = warps * slices * SLICE * STREAMS * ROWS * 4 <= SHARED_BYTES
            if not rest and fits and max(1, blocks // 4) <= warps <= MOST_WARPS:
                return (SiteTile(0, blocks, slices, 1, 104 // blocks),)
    return ()


def tile_context(kind: str, params: KernelParams) -> dict[str, object]:
    """Tiles as the template writes them: most T, then the fields of its class Tile."""
    chosen = cast(Params, params)
    shape = {"site": kind, "width": chosen.width}
    tiles = tuned(kind, shape, site_tiles(kind, chosen.width))
    return {
        "tiles": tuple(
            (
                tile.most,
                (
                    tile.blocks,
                    chosen.width // (tile.blocks * tile.slices * SLICE),
                    tile.slices,
                    tile.groups,
                    tile.teams,
                    tile.staged,
                ),
            )
            for tile in tiles
        )
    }
