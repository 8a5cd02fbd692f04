"""The plan folder of DeepSeek-V4-Pro without its weights: what the tools that look at plans need."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import dsv4c
from dsv4c.codegen.lower import kernel_sources
from dsv4c.events import EventLog
from dsv4c.ir.graph import Graph
from dsv4c.ir.text import show
from dsv4c.ir.types import WeightType
from dsv4c.models.deepseek_v4.build import BuildOptions, build_graph
from dsv4c.models.deepseek_v4.config import ModelConfig, parse_config
from dsv4c.models.deepseek_v4.inventory import logical_weights
from dsv4c.models.deepseek_v4.names import TensorSlice, WeightSource
from dsv4c.passes.base import PassRecord, run_passes
from dsv4c.pipeline import largest_step, pipeline
from dsv4c.plan import manifest
from dsv4c.plan.files import MANIFEST, sha256
from dsv4c.plan.plan import arena_of, schedule_of, states_of
from dsv4c.report.passes import record_pass

PRO: dict[str, Any] = dict(
    architectures=["DeepseekV4ForCausalLM"],
    model_type="deepseek_v4",
    vocab_size=129280,
    hidden_size=7168,
    num_hidden_layers=61,
    num_attention_heads=128,
    head_dim=512,
    qk_rope_head_dim=64,
    q_lora_rank=1536,
    o_groups=16,
    o_lora_rank=1024,
    compress_ratios=[128, 128, *[4, 128] * 29, 4],
    sliding_window=128,
    index_n_heads=64,
    index_head_dim=128,
    index_topk=1024,
    n_routed_experts=384,
    num_experts_per_tok=6,
    moe_intermediate_size=3072,
    routed_scaling_factor=2.5,
    num_hash_layers=3,
    swiglu_limit=10.0,
    hc_mult=4,
    hc_sinkhorn_iters=20,
    hc_eps=1e-6,
    rms_norm_eps=1e-6,
    rope_theta=10000,
    compress_rope_theta=160000,
    rope_scaling=dict(
        type="yarn", factor=16, original_max_position_embeddings=65536, beta_fast=32, beta_slow=1
    ),
    max_position_embeddings=1048576,
    bos_token_id=0,
    eos_token_id=1,
)
ABSENT = "weights/weights-00001.safetensors"
REGISTERS, SMEM = 168, 204_800


def write_bare_plan(folder: Path, target: str = "sm_90a", **changes: Any) -> Path:
    """Compile up to the sources of the kernels; their resources are made up, no weight exists.

    Args:
        folder: of the plan; made.
        target: `cpu`, `sm_90a` or `sm_100a`.
        changes: to config.json of Pro.
    """
    config, options = parse_config(PRO | changes), BuildOptions()
    (folder / "ir").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(PRO | changes), encoding="utf-8")
    with EventLog(folder / "events.jsonl") as log:
        with log.phase("build graph"):
            graph = build(config, options)
        with log.phase("passes"):
            graph, passes = _passes(folder, graph, target, options, log)
        with log.phase("kernels"):
            kernels = _kernels(folder, graph, target, log)
    files = {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    made = manifest.Manifest(
        schema=manifest.SCHEMA,
        dsv4c=dsv4c.__version__,
        target=target,
        tools={"python": "3.11"},
        model=manifest.Model(
            "DeepSeek-V4-Pro",
            files["config.json"],
            config.vocab_size,
            len(config.layers),
            config.max_position_embeddings,
            list(config.eos_token_ids),
        ),
        options=manifest.Options(options.dtype, options.kv_cache, options.chunk),
        kernels=kernels,
        library=None,
        passes=passes,
        schedule=schedule_of(graph),
        states=states_of(graph),
        arena=arena_of(graph),
        weights=_weights(graph),
        files={**files, ABSENT: hashlib.sha256().hexdigest()},
        phases=dict(log.summary()),
    )
    (folder / MANIFEST).write_bytes(manifest.encode(made))
    return folder


def build(config: ModelConfig, options: BuildOptions) -> Graph:
    """The graph of a model from its config alone: each weight in the first format it may have."""
    sources: dict[str, WeightSource] = {}
    for name, weight in logical_weights(config).items():
        tensor = TensorSlice(name if weight.bare else f"{name}.weight")
        sources[name] = WeightSource(weight.formats[0], weight.shape, (("weight", (tensor,)),))
    return build_graph(config, sources, options)


def _passes(
    folder: Path, graph: Graph, target: str, options: BuildOptions, log: EventLog
) -> tuple[Graph, list[manifest.Pass]]:
    (folder / "ir" / "00_model.ir").write_text(show(graph), encoding="utf-8")
    entries: list[manifest.Pass] = []

    def observe(one: PassRecord) -> None:
        name = f"ir/{one.index:02d}_{one.name}.ir" if one.modified else None
        if name is not None:
            (folder / name).write_text(show(one.graph), encoding="utf-8")
        record_pass(log, one)
        status = [remark.status for remark in one.remarks]
        counts = (status.count("applied"), status.count("refused"))
        nodes = (one.nodes_before, one.nodes_after)
        entries.append(
            manifest.Pass(one.index, one.name, one.modified, *nodes, one.seconds, *counts, name)
        )

    final, _ = run_passes(graph, pipeline(target, largest_step(options.chunk)), observe)
    return final, entries


def _kernels(folder: Path, graph: Graph, target: str, log: EventLog) -> list[manifest.Kernel]:
    if target == "cpu":
        return []
    found: list[manifest.Kernel] = []
    for name, source in kernel_sources(graph, target).items():
        path = folder / "kernels" / name / "source.py"
        path.parent.mkdir(parents=True)
        path.write_text(source.text, encoding="utf-8")
        log.event("kernel", name=name, status="compiled", seconds=0.25)
        nodes = [node.name for node in graph.nodes if node.impl == name]
        params = dict(source.params)
        found.append(
            manifest.Kernel(name, source.kind, source.arch, params, name, nodes, REGISTERS, 0, SMEM)
        )
    return found


def _weights(graph: Graph) -> dict[str, manifest.Weight]:
    found: dict[str, manifest.Weight] = {}
    for name in graph.weights:
        type_ = graph.types[name]
        assert isinstance(type_, WeightType)
        part = manifest.Component(f"{name}/weight", ABSENT, "uint8", list(type_.dims))
        found[name] = manifest.Weight(
            type_.format, list(type_.dims), [part], list(graph.sources[name])
        )
    return found
