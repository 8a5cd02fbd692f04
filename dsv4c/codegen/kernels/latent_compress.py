"""Family `latent_compress`: RMSNorm of the query latent, and a layer's compressors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, Refusal, ValueFacts
from dsv4c.codegen.tiles.latent_compress import LATENT_COMPRESS

KIND = "latent_compress"
WIDTH, ROPE, INDEX_WIDTH = 512, 64, 128
CACHES = ("fp8", "bf16")
# What fits in a thread's registers: windows of at most 8 overlapping rows, or of 16 groups' rows.
OVERLAPPING, PLAIN = (2, 4), (64, 128)
_COMPRESSOR = 6
Expected = tuple[str, ValueFacts, str, tuple[int | str, ...]]


@dataclass(frozen=True)
class Params(KernelParams):
    """Parameters of one kernel.

    Args:
        rank: width of the query latent.
        ratio: positions of a window.
        index_width: width of the indexer's entries; 0 without an indexer, and then windows do not
            overlap.
        cache: format of the main cache, `fp8` (the indexer's is then MXFP4) or `bf16`.
        page: entries per page.
        eps: added to the means of squares.
        tiles: key of the tile table: the target.
    """

    rank: int
    ratio: int
    index_width: int
    cache: str
    page: int
    eps: float
    tiles: str


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """Parameters for q, q_norm, 6 operands a compressor, pos, slot, start, angles, entry_slot.

    The operands of a compressor are its state rows, kv, gate, ape, norm, cache; the indexer's
    compressor follows the main one.
    """
    count, rest = divmod(len(facts.inputs) - 7, _COMPRESSOR)
    if rest or count not in (1, 2):
        return Refusal(f"takes 13 or 19 inputs, not {len(facts.inputs)}")
    q, q_norm, *others = facts.inputs
    *_, angles, _ = others
    rank = q.dims[-1]
    if not isinstance(rank, int) or rank % 8:
        return Refusal(f"the latent's width must be a multiple of 8, not {rank}")
    tokens = q.dims[0]
    step = [("pos", "i32"), ("slot", "i32"), ("start", "i32"), ("angles", "f32"), ("entry", "i32")]
    expected: list[Expected] = [
        ("q", q, "bf16", (tokens, rank)),
        ("q_norm", q_norm, "bf16", (rank,)),
    ]
    for (name, dtype), value in zip(step, others[-5:], strict=True):
        expected.append((name, value, dtype, (tokens, ROPE) if value is angles else (tokens,)))
    main, index = others[:_COMPRESSOR], others[_COMPRESSOR:-5]
    ratio = main[3].dims[0]
    if ratio not in (OVERLAPPING if index else PLAIN):
        takes = OVERLAPPING if index else PLAIN
        return Refusal(f"windows of {ratio} positions; takes {takes[0]} or {takes[1]}")
    expected += _compressor("", main, tokens, int(ratio), WIDTH, bool(index))
    if index:
        expected += _compressor("index_", index, tokens, int(ratio), INDEX_WIDTH, True)
    for one in expected:
        if (found := _mismatch(*one)) is not None:
            return found
    if (found := _caches(main[-1], index[-1] if index else None)) is not None:
        return found
    width = INDEX_WIDTH if index else 0
    page = cast(int, main[-1].page)
    eps = float(facts.attrs.get("eps", 1e-6))
    return choose(rank, int(ratio), width, str(main[-1].format), page, arch, eps)


def choose(
    rank: int, ratio: int, index_width: int, cache: str, page: int, arch: str, eps: float = 1e-6
) -> Params:
    """Parameters with the tiles of `dsv4c.codegen.tiles` for `arch`."""
    return Params(rank, ratio, index_width, cache, page, eps, arch)


def kernel_name(params: KernelParams, arch: str) -> str:
    """`latent_compress_r1024_m4_i128_fp8_n32`: latent, ratio, index width, cache, page."""
    chosen = cast(Params, params)
    index = f"_i{chosen.index_width}" if chosen.index_width else ""
    return f"{KIND}_r{chosen.rank}_m{chosen.ratio}{index}_{chosen.cache}_n{chosen.page}"


def context(params: KernelParams) -> dict[str, object]:
    """Sizes that follow from the parameters, and the tiles."""
    chosen = cast(Params, params)
    overlap = chosen.index_width > 0
    tile = LATENT_COMPRESS[chosen.tiles]
    return {
        "width": WIDTH,
        "columns": WIDTH * (1 + overlap),
        "total": chosen.ratio * (1 + overlap),
        # a warp per 128 channels of both compressors; else 8 warps a block of the cluster
        "warps": (WIDTH + INDEX_WIDTH) // 128 if overlap else 8,
        "page_bytes": -(-584 * chosen.page // 576) * 576,
        "index_page_bytes": chosen.page * (chosen.index_width // 2 + chosen.index_width // 32),
        "hadamard_scale": INDEX_WIDTH**-0.5,
        "lowest_bits": 0xFF800000,
        "units": tile.overlap if overlap else tile.cluster,
        "pdl": tile.pdl,
    }


def _compressor(
    prefix: str,
    operands: list[ValueFacts],
    tokens: int | str,
    ratio: int,
    width: int,
    overlap: bool,
) -> list[Expected]:
    """Name, value, dtype and dims that the operands of a compressor must have, but for its cache."""
    columns = width * (1 + overlap)
    dims: tuple[tuple[str, str, tuple[int | str, ...]], ...] = (
        ("rows", "f32", ("S", ratio * (1 + overlap), 2 * columns)),
        ("kv", "f32", (tokens, columns)),
        ("gate", "f32", (tokens, columns)),
        ("ape", "f32", (ratio, columns)),
        ("norm", "bf16", (width,)),
    )
    return [
        (prefix + name, value, dtype, wanted)
        for (name, dtype, wanted), value in zip(dims, operands, strict=False)
    ]


def _caches(main: ValueFacts, index: ValueFacts | None) -> Refusal | None:
    """Why the caches are not taken, or None."""
    if main.format not in CACHES:
        return Refusal(f"cache is {main.format}; takes {' or '.join(CACHES)}")
    if main.page is None or main.rope not in (None, ROPE):
        return Refusal(f"cache has page {main.page} and rope {main.rope}, not {ROPE}")
    wanted = "mxfp4" if main.format == "fp8" else "bf16"
    if index is not None and (index.format, index.page) != (wanted, main.page):
        found = f"{index.format} with page {index.page}"
        return Refusal(f"index cache is {found}; takes {wanted} with page {main.page}")
    return None


def _mismatch(
    name: str, value: ValueFacts, dtype: str, dims: tuple[int | str, ...]
) -> Refusal | None:
    if value.dtype == dtype and value.dims == dims:
        return None
    return Refusal(f"{name} is {value.dtype} {list(value.dims)}; takes {dtype} {list(dims)}")
