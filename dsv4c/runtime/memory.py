"""What a session needs of the device's memory, known before anything is allocated."""

from __future__ import annotations

from pathlib import Path

import torch

from dsv4c.errors import DsvError
from dsv4c.ir.graph import Graph
from dsv4c.ir.lifetimes import arena_size
from dsv4c.ir.types import CacheType, RowsType, WeightType
from dsv4c.runtime.batch import Sizes, input_bytes


def session_bytes(graph: Graph, pages: int) -> dict[str, int]:
    """Bytes of a session by use.

    Args:
        graph: planned for the session's largest step.
        pages: logical pages of 128 tokens.

    Returns:
        `weights` (stored form), `decoded` (fp32 copies that references keep), `states`, `arena`
        (with zeroed scratch), `inputs` of a step.
    """
    env, size = {"S": graph.step["S"], "N": pages}, arena_size(graph)
    states = [graph.types[value] for value in graph.states]
    decoded = {
        value
        for node in graph.nodes
        if node.impl == "reference"
        for value in node.inputs
        if isinstance(graph.types[value], WeightType)
    }
    types = [graph.types[value] for value in sorted(decoded)]
    return {
        "weights": sum(graph.types[value].nbytes({}) for value in graph.weights),
        "decoded": sum(4 * _count(t) for t in types if isinstance(t, WeightType)),
        "states": sum(t.nbytes(env) for t in states if isinstance(t, CacheType | RowsType)),
        "arena": size.arena + size.zeroed,
        "inputs": input_bytes(Sizes(*(graph.step[name] for name in Sizes._fields))),
    }


def _count(type_: WeightType) -> int:
    size = 1
    for dim in type_.dims:
        size *= dim
    return size if type_.format != "i64" else 0


def check_memory(needed: dict[str, int], device: torch.device) -> None:
    """Raise DsvError DSV602 with the numbers if the device has not that much free memory."""
    free = available_bytes(device)
    total = sum(needed.values())
    if total > free:
        parts = ", ".join(f"{name} {size:,}" for name, size in needed.items())
        raise DsvError(
            "DSV602",
            "the session does not fit the memory",
            where=str(device),
            expected=f"at most {free:,} bytes",
            found=f"{total:,} bytes ({parts})",
            hint="lower max_sequences or max_tokens",
        )


def available_bytes(device: torch.device) -> int:
    """Free bytes: of the GPU, or of the host (MemAvailable)."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("/proc/meminfo has no MemAvailable")
