"""Which cases run under compute-sanitizer: few and small, through every path of every kernel.

The tools slow kernels down a hundredfold and more. Each pattern is to be matched with `fnmatch`
with the names of a family's cases; the first patterns are the most telling. Lengths are those of
the tiles in `dsv4c/codegen/tiles`: one on either side of each border where a kernel's code changes.
"""

from __future__ import annotations

CHOSEN: dict[str, tuple[str, ...]] = {
    # T <= 256 and beyond; prefill; rings filled again; NaN; padding rows; pages beyond 2^31 bytes;
    # nothing.
    "index_scores": (
        "t3_*_c1300", "t257_*_c1300", "t256_h8_*_c12000", "t3_*_prefill", "t7_*_odd",
        "t70_*_padding", "t7_*_far", "t0_*",
    ),
    # Tiles of mma.sync and of wgmma; NaN; extreme scales and codes; nothing.
    "inverse_rope_wo_a": (
        "*_t3", "*_t129", "*_t7", "*_t65", "*_t9", "*_t17", "*_t33", "*_t257", "*_t7_odd",
        "*_t1_scales", "*_t8_codes", "*_t0_*",
    ),
    # Either side of a window's end; batches of short runs; NaN; far pages; nothing.
    "latent_compress": ("*_edges", "*_ragged", "*_three", "*_c129", "*_nan", "*_far", "*_empty"),
    # Tiles of mma.sync, wgmma with and without clusters that share K; NaN.
    "linears": (
        "*_t1", "*_t129", "*_t64", "*_t9", "*_t17", "*_t65", "*_t256", "*_t13_odd", "*_q_t16",
        "*_q_t32",
    ),
    "mhc_first": ("*_t9", "*_t9_*", "*_t129", "*_t300_odd", "*_t0_*"),
    "mhc_head": ("*_t8_r8", "*_t300_r9", "*_t300_r129", "*_r30_odd", "*_r0_*"),
    # Copied ahead from 257 tokens of Flash and 129 of Pro on.
    "mhc_seam": ("*_t9", "*_t129", "*_t300_odd", "*_t0_*"),
    # Streaming with every tile; wgmma (more than 64 tokens of the small model) with few widths and all;
    # all tokens to the same experts; NaN; extreme scales; nothing. 256 experts in bf16 are 13 GB:
    # the processes side by side would not find room.
    "moe_down": (
        "flash_nvfp4_*_t1", "*_fp8_128_t3", "few_bf16_*_t3", "tiny_*_t3", "tiny_*_t129",
        "tiny_*_t256", "tiny_*_t64", "tiny_nvfp4_fp8_*_t400", "tiny_*_t40_scales",
        "tiny_*_t513_one", "tiny_*_t8_odd", "tiny_*_t513_odd", "*_t0_*",
    ),
    "moe_gate_up": (
        "*_fp8_128_t1", "few_bf16_*_t1", "tiny_*_t1", "tiny_*_t129", "tiny_*_t256",
        "tiny_nvfp4_fp8_*_t400", "tiny_*_t8", "flash_nvfp4_*_t8", "tiny_*_t40_scales",
        "tiny_*_t513_one", "tiny_*_t8_odd", "tiny_*_t513_odd", "*_t0_*",
    ),
    "qnorm_rope_kv_insert": ("t7_*", "t64_*_odd", "t0_*"),
    "rms_norm": ("t3_*", "t129_*", "t64_*_odd", "t0_*"),
    # One launch with K in parts and whole, three launches; equal scores; NaN; experts by token id.
    "router": (
        "*_t3", "*_t300_ties", "*_t64", "*_t129_ties", "*_t8_odd", "tiny_*t4096", "flash_hash_t4096",
    ),
    "sample": ("r1_*", "r3_*", "r33_*_odd", "r33_*_equal", "r33_*_wide", "r0_*"),
    # Clusters of 16, 8 and 2 blocks with parts of the heads and with all of them, single ones; window
    # only; an entry a page; NaN; far pages; nothing.
    "sparse_attention": (
        "t1_*_k0_*", "t1_*", "t2_h128_k64_*", "t9_h64_k64_*", "t7_*_k0_*", "t8_h128_k1024_c32_*",
        "t40_*_k64_*", "t64_*_odd", "t0_*", "t7_*_far",
    ),
    "step_metadata": ("t3_*", "t129_*", "t64_*_alone", "t0_*"),
    # Clusters of 8, 4, 2 and single blocks; short rows; equal scores; NaN; padding; nothing.
    "topk_entries": (
        "t3_*", "t17_*_ties", "t40_*_normal", "t129_*_ties", "t1_*_odd", "t20_*_padding",
        "t1_*_prefill", "t0_*", "t3_*_zeros",
    ),
}  # fmt: skip

# Sparse attention again, as if no cluster shared the rows of a token: all of its tiles in one block.
UNSPLIT = ("t1_*_k64_*", "t1_*_k512_*", "t1_*_k1024_*", "t3_*_k64_*")

# Not under racecheck, which takes more than a minute for them: the same code runs in smaller cases.
TOO_LONG = (
    "linears/*_head_t129", "linears/*_head_t64", "linears/*_head_t256", "linears/pro_head_*",
    "linears/pro_*_t256", "linears/flash_*_t256", "linears/bf16_*_t256", "linears/*_q_t256",
    "linears/nvfp4_*_t256", "linears/*_q*_t129", "linears/pro_q_*",
    "mhc_*/pro_t129", "mhc_*/pro_t300_*",
    "sample/r3_33333", "sample/r3_129280", "sample/r33_129280_*", "sample/r33_33333_*",
    "sparse_attention/t*_k8192_*", "sparse_attention/t40_*", "sparse_attention/t64_*",
    "sparse_attention/t7_*", "sparse_attention/t8_*", "router/*_t4096", "moe_*/pro_*",
    "moe_*/flash_fp8_*", "inverse_rope_wo_a/pro_*_t129", "inverse_rope_wo_a/flash_*_t257",
)  # fmt: skip
