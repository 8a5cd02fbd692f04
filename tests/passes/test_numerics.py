"""No pass changes a bit: a random model with a layer of each kind, stepped before and after each."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace

import pytest
import torch

from dsv4c.ir.graph import Graph
from dsv4c.ir.interp import run_graph
from dsv4c.ir.types import CacheType, RowsType, WeightType
from dsv4c.ir.values import Operand, State, Weight
from dsv4c.ir.weight_codecs import quantize
from dsv4c.models.deepseek_v4.build import BuildOptions
from dsv4c.models.deepseek_v4.config import LayerConfig, ModelConfig
from dsv4c.passes.base import run_passes
from dsv4c.pipeline import pipeline

ENV = {"T": 256, "R": 256, "S": 3, "P": 3, "N": 9}
TABLE = torch.tensor([[7, 2, 4], [3, 8, 0], [5, 6, 1]], dtype=torch.int32)
# steps of (slot, first position, tokens); the last rows of a step may be padding
STEPS: list[tuple[list[tuple[int, int, int]], int]] = [
    ([(0, 0, 150), (2, 0, 3)], 0),
    ([(1, 0, 129), (0, 150, 1), (2, 3, 126)], 2),
    ([(0, 151, 1), (1, 129, 1), (2, 129, 1)], 1),
]


@pytest.fixture(autouse=True)
def one_thread() -> Generator[None]:
    """Small products are slower on several threads, far slower when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(tiny: ModelConfig) -> ModelConfig:
    layers = (
        LayerConfig("csa", 4, True),
        LayerConfig("hca", 128, False),
        LayerConfig("swa", 0, False),
    )
    return replace(
        tiny, vocab_size=64, hidden_size=32, num_attention_heads=4, head_dim=80, qk_rope_head_dim=16,
        q_lora_rank=32, o_groups=2, o_lora_rank=16, index_n_heads=4, index_head_dim=32, index_topk=16,
        n_routed_experts=4, moe_intermediate_size=32, layers=layers, num_hidden_layers=3,
    )  # fmt: skip


def random_weight(name: str, type_: WeightType, generator: torch.Generator) -> Weight:
    if type_.format == "i64":
        return Weight(type_, (torch.randint(4, type_.dims, generator=generator),))
    values = torch.randn(type_.dims, generator=generator)
    values *= type_.dims[-1] ** -0.5 if len(type_.dims) > 1 else 0.3
    return Weight(type_, quantize(type_.format, values + name.endswith("norm")))


def step_values(step: int) -> dict[str, torch.Tensor]:
    """Step inputs; padded rows are token 0 at position 0 of slot -1."""
    batch, padding = STEPS[step]
    columns: list[tuple[int, int, int]] = []
    for slot, first, tokens in batch:
        start = len(columns)
        columns += [(slot, first + i, start) for i in range(tokens)]
    columns += [(-1, 0, 0)] * padding
    slot, pos, start = (
        torch.tensor(part, dtype=torch.int32) for part in zip(*columns, strict=True)
    )
    ids = torch.randint(64, slot.shape, generator=torch.Generator().manual_seed(step)).int()
    rows = torch.arange(len(slot), dtype=torch.int32)
    return {
        "ids": ids,
        "pos": pos,
        "slot": slot,
        "start": start,
        "block_table": TABLE,
        "out_rows": rows,
        "temperature": rows.float() / 4,
        "top_k": 7 * rows,
        "top_p": 1 - rows.float() / 300,
        "seed": torch.stack([rows, -rows], 1),
        "next_pos": pos + 1,
    }


def run(graph: Graph, weights: dict[str, Weight]) -> list[torch.Tensor]:
    """Logits and drawn tokens of every step, then the bytes of every state."""
    states: dict[str, State] = {}
    for name in graph.states:
        kind = graph.types[name]
        assert isinstance(kind, CacheType | RowsType)
        states[name] = State.allocate(kind, ENV, "cpu")
    found: list[torch.Tensor] = []
    for step in range(len(STEPS)):
        env: dict[str, Operand] = {**states, **step_values(step)}
        env |= {name: weights[name] for name in graph.weights}
        values = run_graph(graph, env)
        for value in graph.outputs[:2]:
            made = values[value]
            assert isinstance(made, torch.Tensor)
            found.append(made)
    return [*found, *(states[name].buffer for name in graph.states)]


@pytest.mark.parametrize(("dtype", "kv_cache"), [("bf16", "fp8"), ("f32", "f32")])
def test_no_pass_changes_a_bit(
    dtype: str,
    kv_cache: str,
    model_config: Callable[[str], ModelConfig],
    model_graph: Callable[..., Graph],
) -> None:
    graph = model_graph(small(model_config("tiny")), BuildOptions(dtype, kv_cache, chunk=160))
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Weight] = {}
    for name in graph.weights:
        kind = graph.types[name]
        assert isinstance(kind, WeightType)
        weights[name] = random_weight(name, kind, generator)
    expected = run(graph, weights)
    for step, logits in enumerate(expected[: 2 * len(STEPS) : 2]):
        assert logits.isfinite().all(), f"step {step}, padded rows included"
        assert logits.std() > 0.1
    _, records = run_passes(graph, pipeline("cpu", ENV))
    for record in records:
        if record.modified:
            found = run(record.graph, weights)
            for one, other in zip(found, expected, strict=True):
                assert one.dtype == other.dtype
                assert torch.equal(one.view(torch.uint8), other.view(torch.uint8)), record.name
