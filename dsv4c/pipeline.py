"""The pass list: what happens to a graph between the builder and the plan, top to bottom."""

from __future__ import annotations

from collections.abc import Mapping

from dsv4c.codegen.lower import Lower
from dsv4c.passes.assign_buffers import AssignBuffers
from dsv4c.passes.base import Pass
from dsv4c.passes.canonicalize import Canonicalize
from dsv4c.passes.common_subexpressions import CommonSubexpressions
from dsv4c.passes.dead_code import DeadCode
from dsv4c.passes.fuse_gather_gemm import FuseGatherGemm
from dsv4c.passes.fuse_inverse_rope_wo_a import FuseInverseRopeWoA
from dsv4c.passes.fuse_latent_compress import FuseLatentCompress
from dsv4c.passes.fuse_linears import FuseLinears
from dsv4c.passes.fuse_mhc_first import FuseMhcFirst
from dsv4c.passes.fuse_mhc_head import FuseMhcHead
from dsv4c.passes.fuse_mhc_seam import FuseMhcSeam
from dsv4c.passes.fuse_moe_down import FuseMoeDown
from dsv4c.passes.fuse_moe_gate_up import FuseMoeGateUp
from dsv4c.passes.fuse_qnorm_rope_quant import FuseQnormRopeQuant
from dsv4c.passes.fuse_router import FuseRouter
from dsv4c.passes.fuse_step_metadata import FuseStepMetadata


def largest_step(chunk: int) -> dict[str, int]:
    """The step that a plan's arena is laid out for: a full chunk, 8 slots, 2,048 tokens of context.

    Args:
        chunk: most tokens of one sequence in a step.
    """
    return {"T": chunk, "R": chunk, "S": 8, "P": 16}


def pipeline(target: str, env: Mapping[str, int], start: str = "model") -> tuple[Pass, ...]:
    """Passes in order.

    Args:
        target: `cpu`, `sm_90a` or `sm_100a`.
        env: the largest step, for the layout of the arena.
        start: stage of the graph that they are given. At `fused` there may be places left to fuse;
            a graph is not lowered or planned twice.
    """
    stages: dict[str, tuple[Pass, ...]] = {
        # one spelling, nothing twice, nothing unused
        "model": (Canonicalize(), CommonSubexpressions(), DeadCode()),
        "fused": (
            FuseMhcFirst(),  # embedding + first pre + RMSNorm
            FuseMhcSeam(),  # post of a site + pre of the next + RMSNorm
            FuseMhcHead(),  # last post + rows + head's collapse + RMSNorm
            FuseQnormRopeQuant(),  # q norm + RoPE; kv norm + RoPE + quantise + window insert
            FuseLatentCompress(),  # norm of the query latent; compressors
            FuseGatherGemm(),  # gather + QK^T + softmax with sink + PV
            FuseInverseRopeWoA(),  # inverse RoPE + grouped wo_a
            FuseRouter(),  # logits + choice of experts + pairs by expert
            FuseMoeGateUp(),  # w1, w3, SwiGLU and routing weight of all experts
            FuseMoeDown(),  # w2 of all experts + their sum
            FuseLinears(),  # linears that share an input, of those that no fusion above took
            FuseStepMetadata(),  # RoPE angles and places of entries, once a step
            DeadCode(),
        ),
        # a template for each fused node
        "lowered": (Lower(target),),
        # places in the arena
        "planned": (AssignBuffers(env),),
    }
    names = list(stages)
    first = names.index(start) + (start in ("lowered", "planned"))
    return tuple(one for name in names[first:] for one in stages[name])
