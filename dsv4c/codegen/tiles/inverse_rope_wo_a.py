"""Tiles of inverse RoPE + wo_a."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WoATile:
    """Inverse RoPE + wo_a: how a block works for batches of up to `most` tokens (0: any).

    Args:
        most: largest T.
        wgmma: multiply with wgmma, else with mma.sync.
        rows, tokens: of z that a block computes.
        depth: K per pipeline stage; 64 with wgmma.
        stages: of the pipeline.
        lead: steps whose weights are asked for before the previous kernel has ended.
        warps_m, warps_k: multiplying warps along the rows, and along K.
    """

    most: int
    wgmma: bool
    rows: int
    tokens: int
    depth: int
    stages: int
    lead: int
    warps_m: int
    warps_k: int


# Which part of K is added up where decides a row's bits: they are the same in all tiles with the
# same instruction and warps_k. Tokens that are asked for behind many weights come with the last of
# these; so before them go as many as cover the wait.
_FP8 = (
    WoATile(8, False, 64, 8, 512, 5, 3, 2, 4),
    WoATile(16, False, 64, 16, 256, 8, 4, 4, 4),
    WoATile(32, False, 64, 32, 256, 6, 3, 2, 4),
)
_FP8_WIDE = (
    WoATile(8, False, 128, 8, 256, 6, 6, 4, 4),
    WoATile(16, False, 128, 16, 256, 5, 5, 4, 4),
    WoATile(32, False, 128, 32, 256, 4, 4, 4, 4),
)
_BF16 = (
    WoATile(8, False, 64, 8, 256, 5, 5, 4, 4),
    WoATile(16, False, 64, 16, 256, 5, 5, 4, 4),
    WoATile(32, False, 64, 32, 256, 4, 4, 2, 4),
)
_BF16_WIDE = (
    WoATile(8, False, 128, 8, 128, 6, 6, 4, 2),
    WoATile(16, False, 128, 16, 128, 5, 5, 4, 2),
    WoATile(32, False, 128, 32, 128, 5, 5, 4, 2),
)

# By target, weight format, and whether 64-row tiles of the weight would outnumber the SMs ("wide").
INVERSE_ROPE_WO_A: dict[tuple[str, str, bool], tuple[WoATile, ...]] = {
    ("sm_90a", "fp8_128", False): (
        *_FP8,
        WoATile(64, True, 64, 64, 64, 14, 4, 4, 2),
        WoATile(128, True, 64, 128, 64, 8, 8, 4, 2),
        WoATile(256, True, 128, 128, 64, 7, 7, 8, 1),
        WoATile(0, True, 128, 256, 64, 4, 4, 8, 1),
    ),
    ("sm_90a", "fp8_128", True): (
        *_FP8_WIDE,
        WoATile(64, True, 128, 64, 64, 12, 12, 8, 1),
        WoATile(128, True, 128, 128, 64, 7, 7, 8, 1),
        WoATile(0, True, 128, 256, 64, 4, 4, 8, 1),
    ),
    ("sm_90a", "bf16", False): (
        *_BF16,
        WoATile(64, True, 64, 64, 64, 12, 12, 4, 2),
        WoATile(128, True, 64, 128, 64, 8, 8, 4, 2),
        WoATile(256, True, 128, 128, 64, 6, 6, 8, 1),
        WoATile(0, True, 128, 256, 64, 3, 3, 8, 1),
    ),
    ("sm_90a", "bf16", True): (
        *_BF16_WIDE,
        WoATile(64, True, 128, 64, 64, 8, 8, 8, 1),
        WoATile(128, True, 128, 128, 64, 6, 6, 8, 1),
        WoATile(0, True, 128, 256, 64, 3, 3, 8, 1),
    ),
    # Not measured; the largest tile whose accumulators leave room for both operands.
    ("sm_100a", "fp8_128", False): (
        *_FP8,
        WoATile(64, False, 64, 64, 256, 4, 4, 2, 4),
        WoATile(0, False, 128, 64, 256, 3, 3, 4, 2),
    ),
    ("sm_100a", "fp8_128", True): (*_FP8_WIDE, WoATile(0, False, 128, 64, 256, 3, 3, 4, 2)),
    ("sm_100a", "bf16", False): (
        *_BF16,
        WoATile(64, False, 64, 64, 256, 3, 3, 2, 4),
        WoATile(0, False, 128, 64, 128, 4, 4, 4, 2),
    ),
    ("sm_100a", "bf16", True): (*_BF16_WIDE, WoATile(0, False, 128, 64, 128, 4, 4, 4, 2)),
}
