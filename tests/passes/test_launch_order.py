"""Which kernels follow one another: what a kernel reads before its wait must be whole by then.

A kernel that lets the next one start before its own wait says nothing of what earlier ones wrote.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dsv4c.ir.graph import Graph
from dsv4c.models.deepseek_v4.config import ModelConfig
from dsv4c.passes.base import run_passes
from dsv4c.pipeline import largest_step, pipeline

KINDS = ("router", "moe_gate_up", "moe_down", "latent_compress", "linears")


@pytest.mark.parametrize("name", ["tiny", "flash", "pro"])
def test_what_is_read_early_is_whole(
    model_config: Callable[[str], ModelConfig], model_graph: Callable[..., Graph], name: str
) -> None:
    """`moe_down` reads the router's lists early, `linears` weights only."""
    config = model_config(name)
    graph, _ = run_passes(model_graph(config), pipeline("sm_90a", largest_step(512)))
    impls = [str(node.impl) for node in graph.nodes if not node.by_reference]
    kinds = [next((kind for kind in KINDS if one.startswith(f"{kind}_")), one) for one in impls]
    downs = [i for i, kind in enumerate(kinds) if kind == "moe_down"]
    assert len(downs) == len(config.layers)
    for i in downs:
        assert kinds[i - 2 : i] == ["router", "moe_gate_up"]
    after = {kinds[i + 1] for i, kind in enumerate(kinds) if kind == "latent_compress"}
    assert after == {"linears"}
