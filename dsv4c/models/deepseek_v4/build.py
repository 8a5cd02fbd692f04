"""DeepSeek-V4 as a graph: one step over T tokens of several sequences, for decode and prefill alike.

Step inputs, i32: `ids` [T], `pos` [T] absolute positions, `slot` [T] sequence slots (-1: a padded
row), `start` [T] the row where the token's sequence begins in this step, `block_table` [S, P] pages
of 128 tokens, `out_rows` [R] the rows whose logits are wanted. Rows of one sequence are consecutive.
For each of these rows how the next token is drawn from its logits: f32 `temperature` and `top_p`,
i32 `top_k`, `seed` [R, 2] and `next_pos`, the position of that token. Outputs: logits f32 [R, V], the
drawn tokens i32 [R], the states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsv4c.errors import DsvError
from dsv4c.ir.builder import GraphBuilder
from dsv4c.ir.cache import CacheLayout
from dsv4c.ir.graph import Graph
from dsv4c.ir.types import CacheType, RowsType, Sym, TensorType, WeightType
from dsv4c.models.deepseek_v4.config import LayerConfig, ModelConfig, RopeConfig

if TYPE_CHECKING:
    from dsv4c.models.deepseek_v4.names import WeightSource

PAGE_TOKENS = 128
SAMPLING_INPUTS = ("temperature", "top_k", "top_p", "seed", "next_pos")
STEP_INPUTS = ("ids", "pos", "slot", "start", "block_table", "out_rows", *SAMPLING_INPUTS)


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What a plan fixes beside the model.

    Attributes:
        dtype: activations between nodes, `bf16` or `f32`.
        kv_cache: format of KV entries, `fp8`, `bf16` or `f32`; with `fp8` the index cache is MXFP4
            and the indexer's vectors pass a Hadamard transform.
        chunk: most tokens of one sequence in one step.
    """

    dtype: str = "bf16"
    kv_cache: str = "fp8"
    chunk: int = 512


def build_graph(
    config: ModelConfig, weights: Mapping[str, WeightSource], options: BuildOptions
) -> Graph:
    """The model's graph at stage `model`, unfused.

    Args:
        config: the architecture.
        weights: for each logical weight name its format, shape and source tensors.
        options: dtypes and cache formats.
    """
    return _Model(config, weights, options).build()


class _Model:
    def __init__(
        self, config: ModelConfig, weights: Mapping[str, WeightSource], options: BuildOptions
    ) -> None:
        self.c, self.weights, self.o = config, weights, options
        self.g = GraphBuilder("deepseek_v4")

    def build(self) -> Graph:
        g, c = self.g, self.c
        tokens, i32 = Sym("T"), "i32"
        for name in ("ids", "pos", "slot", "start"):
            g.step_input(name, TensorType(i32, (tokens,)))
        g.step_input("block_table", TensorType(i32, (Sym("S"), Sym("P"))))
        rows = Sym("R")
        g.step_input("out_rows", TensorType(i32, (rows,)))
        for name in SAMPLING_INPUTS:
            dtype = "f32" if name in ("temperature", "top_p") else i32
            g.step_input(name, TensorType(dtype, (rows, 2) if name == "seed" else (rows,)))
        x = g.add("embed", "embedded", "ids", self.w("embed"), dtype=self.o.dtype)
        streams = g.add("expand_streams", "streams", x, streams=c.hc_mult)
        for number, layer in enumerate(c.layers):
            with g.scope(f"L{number}", number):
                streams = self.site(streams, number, "attn", layer)
                streams = self.site(streams, number, "ffn", layer)
        with g.scope("head"):
            logits = self.head(streams)
            return g.finish(logits, g.add("sample", "ids", logits, *SAMPLING_INPUTS))

    def w(self, name: str) -> str:
        source = self.weights[name]
        tensors = [part.name for _, parts in source.components for part in parts]
        return self.g.weight(name, WeightType(source.format, tuple(source.shape)), tensors)

    def site(self, streams: str, number: int, part: str, layer: LayerConfig) -> str:
        """Hyper-connections around attention or MoE: collapse the streams, run the part, spread its result."""
        g, c, prefix = self.g, self.c, f"layers.{number}."
        with g.scope(part):
            fn, base, scale = (self.w(f"{prefix}hc_{part}_{x}") for x in ("fn", "base", "scale"))
            mix = g.add("mhc_mix", "mix", streams, fn, eps=c.rms_norm_eps)
            pre, post, comb = g.add_many(
                "mhc_coefficients",
                ("pre", "post", "comb"),
                *(mix, base, scale),
                streams=c.hc_mult,
                iters=c.hc_sinkhorn_iters,
                eps=c.hc_eps,
            )
            x = g.add("mhc_collapse", "collapsed", streams, pre)
            x = self.norm("x", x, f"{prefix}{part}_norm")
            build = self.attention if part == "attn" else self.moe
            y = build(x, f"{prefix}{part}.", layer)
            return g.add("mhc_expand", "streams", streams, y, post, comb)

    def norm(self, name: str, x: str, weight: str) -> str:
        return self.g.add("rms_norm", name, x, self.w(weight), eps=self.c.rms_norm_eps)

    def linear(self, name: str, x: str, weight: str, dtype: str = "") -> str:
        return self.g.add("linear", name, x, self.w(weight), dtype=dtype or self.o.dtype)

    def angles(self, rope: RopeConfig, offset: int = 0) -> str:
        return self.g.add(
            "rope_angles",
            "angles",
            "pos",
            dims=self.c.qk_rope_head_dim,
            theta=rope.theta,
            factor=rope.factor,
            original=rope.original_max_position,
            beta_fast=rope.beta_fast,
            beta_slow=rope.beta_slow,
            offset=offset,
        )

    def attention(self, x: str, prefix: str, layer: LayerConfig) -> str:
        g, c = self.g, self.c
        heads, width = c.num_attention_heads, c.head_dim
        rope = c.rope(layer)
        angles = self.angles(rope)
        latent = self.norm("q_latent", self.linear("q_a", x, f"{prefix}wq_a"), f"{prefix}q_norm")
        q = self.linear("q_b", latent, f"{prefix}wq_b")
        q = g.add("view", "q_heads", q, shape=(heads, width))
        q = g.add("rope", "q", g.add("head_norm", "q_normed", q, eps=c.rms_norm_eps), angles)
        kv = self.norm("kv_normed", self.linear("kv_a", x, f"{prefix}wkv"), f"{prefix}kv_norm")
        kv = g.add("rope", "kv", kv, angles)
        window, index = self.insert_window(kv)
        rows = self.gather("window_rows", window, index)
        if layer.kind != "swa":
            cache, compressed = self.compressed(x, latent, prefix, layer)
            rows = g.add("concat", "rows", rows, self.gather("compressed_rows", cache, compressed))
            index = g.add("concat", "index", index, compressed)
        scores = g.add("attention_scores", "scores", q, rows, index, scale=width**-0.5)
        probs = g.add("sink_softmax", "probs", scores, self.w(f"{prefix}attn_sink"))
        o = g.add("attention_values", "o", probs, rows, dtype=self.o.dtype)
        o = g.add("rope", "o_unroped", o, angles, inverse=True)
        o = g.add("view", "o_groups", o, shape=(c.o_groups, heads * width // c.o_groups))
        z = g.add("grouped_linear", "z", o, self.w(f"{prefix}wo_a"), dtype=self.o.dtype)
        return self.linear("y", z, f"{prefix}wo_b")

    def cache_type(self, width: int, rope: int, page: int, ring: int = 0) -> CacheType:
        format_ = self.o.kv_cache
        if format_ == "fp8" and not rope:
            format_ = "mxfp4"
        return CacheType(CacheLayout(format_, width, rope, page), ring)

    def insert_window(self, kv: str) -> tuple[str, str]:
        """The window ring with this step's entries, and the entries that each token sees."""
        g, c = self.g, self.c
        needed = c.sliding_window - 1 + self.o.chunk
        ring = -(-needed // PAGE_TOKENS) * PAGE_TOKENS
        type_ = self.cache_type(c.head_dim, c.qk_rope_head_dim, PAGE_TOKENS, ring)
        window = g.state("window", type_)
        where = g.add("window_slots", "window_slot", "pos", "slot", ring=ring)
        g.write("insert_rows", window, kv, where)
        seen = g.add(
            "window_entries", "window_index", "pos", "slot", ring=ring, window=c.sliding_window
        )
        return window, seen

    def gather(self, name: str, cache: str, index: str) -> str:
        width = self.c.head_dim
        return self.g.add("gather_rows", name, cache, index, width=width, dtype=self.o.dtype)

    def compressed(self, x: str, latent: str, prefix: str, layer: LayerConfig) -> tuple[str, str]:
        """The cache of compressed entries after this step, and the entries that each token sees."""
        g, ratio = self.g, layer.ratio
        page = PAGE_TOKENS // ratio
        if layer.kind == "hca":
            cache = self.compress(x, f"{prefix}compressor.", layer, self.c.head_dim, "compressor")
            args = ("pos", "slot", "block_table")
            return cache, g.add("visible_entries", "seen", *args, ratio=ratio, page=page)
        selected = self.select(x, latent, f"{prefix}indexer.", layer)
        cache = self.compress(x, f"{prefix}compressor.", layer, self.c.head_dim, "compressor")
        return cache, selected

    def compress(self, x: str, prefix: str, layer: LayerConfig, width: int, scope: str) -> str:
        g, c, ratio = self.g, self.c, layer.ratio
        page, columns = PAGE_TOKENS // ratio, width * (2 if layer.kind == "csa" else 1)
        index = scope != "compressor"
        with g.scope(scope):
            rows = g.state("rows", RowsType(columns // width * ratio, 2 * columns))
            cache = g.state(
                "cache", self.cache_type(width, 0 if index else c.qk_rope_head_dim, page)
            )
            kv = self.linear("kv", x, f"{prefix}wkv", "f32")
            gate = self.linear("gate", x, f"{prefix}wgate", "f32")
            pooled = g.add(
                "compress_pool",
                "pooled",
                *(rows, kv, gate, self.w(f"{prefix}ape"), "pos", "slot", "start"),
                ratio=ratio,
                width=width,
                dtype=self.o.dtype,
            )
            entry = self.norm("normed", pooled, f"{prefix}norm")
            entry = g.add("rope", "entry", entry, self.angles(c.compress_rope, 1 - ratio))
            if index and self.o.kv_cache == "fp8":
                entry = g.add("hadamard", "rotated", entry)
            args = ("pos", "slot", "block_table")
            where = g.add("entry_slots", "entry_slot", *args, ratio=ratio, page=page)
            g.write("insert_rows", cache, entry, where)
            return cache

    def select(self, x: str, latent: str, prefix: str, layer: LayerConfig) -> str:
        """Lightning indexer: the entries with the best scores."""
        g, c = self.g, self.c
        heads, width, page = c.index_n_heads, c.index_head_dim, PAGE_TOKENS // layer.ratio
        keys = self.compress(x, f"{prefix}compressor.", layer, width, "indexer")
        with g.scope("indexer"):
            q = self.linear("q_b", latent, f"{prefix}wq_b")
            q = g.add("view", "q_heads", q, shape=(heads, width))
            q = g.add("rope", "q", q, self.angles(c.compress_rope))
            if self.o.kv_cache == "fp8":
                q = g.add("fake_quant", "q_fp4", g.add("hadamard", "q_rotated", q))
            weights = self.linear("weights", x, f"{prefix}weights_proj", "f32")
            scores = g.add(
                "index_scores",
                "scores",
                *(q, weights, keys, "pos", "slot", "block_table"),
                ratio=layer.ratio,
                page=page,
                scale=width**-0.5 * heads**-0.5,
            )
            args = (scores, "pos", "slot", "block_table")
            return g.add(
                "topk_entries", "selected", *args, ratio=layer.ratio, page=page, k=c.index_topk
            )

    def moe(self, x: str, prefix: str, layer: LayerConfig) -> str:
        g, c = self.g, self.c
        logits = self.linear("router_logits", x, f"{prefix}gate", "f32")
        route = {"k": c.num_experts_per_tok, "scale": c.routed_scaling_factor}
        names = ("experts", "weights")
        if layer.hash_routing:
            table = self.w(f"{prefix}gate.tid2eid")
            experts, weights = g.add_many("route_hash", names, logits, table, "ids", **route)
        else:
            bias = self.w(f"{prefix}gate.bias")
            experts, weights = g.add_many("route_learned", names, logits, bias, **route)
        bounds = c.n_routed_experts + 1
        groups = g.add_many("group_tokens", ("order", "offsets"), experts, bounds=bounds)
        gate, up = (
            g.add(
                "expert_linear",
                name,
                x,
                self.w(f"{prefix}experts.{w}"),
                *groups,
                dtype=self.o.dtype,
            )
            for name, w in (("gate", "w1"), ("up", "w3"))
        )
        a = g.add("routed_swiglu", "act", gate, up, weights, limit=c.swiglu_limit)
        down = self.w(f"{prefix}experts.w2")
        routed = g.add("expert_linear", "down", a, down, *groups, dtype=self.o.dtype)
        with g.scope("shared"):
            gate, up = (
                self.linear(name, x, f"{prefix}shared_experts.{w}")
                for name, w in (("gate", "w1"), ("up", "w3"))
            )
            a = g.add("swiglu", "act", gate, up, limit=c.swiglu_limit)
            shared = self.linear("down", a, f"{prefix}shared_experts.w2")
        return g.add("combine", "y", routed, shared)

    def head(self, streams: str) -> str:
        g, c = self.g, self.c
        streams = g.add("take_rows", "rows", streams, "out_rows")
        fn, base, scale = (self.w(f"hc_head_{part}") for part in ("fn", "base", "scale"))
        mix = g.add("mhc_mix", "mix", streams, fn, eps=c.rms_norm_eps)
        weights = g.add("mhc_head_coefficients", "weights", mix, base, scale, eps=c.hc_eps)
        x = self.norm("x", g.add("mhc_collapse", "collapsed", streams, weights), "norm")
        return self.linear("logits", x, "head", "f32")


def check_supported(config: ModelConfig, options: BuildOptions) -> None:
    """Raise DsvError DSV301 where a page or the options do not fit the model's dims."""
    for number, layer in enumerate(config.layers):
        if layer.ratio and PAGE_TOKENS % layer.ratio:
            raise DsvError(
                "DSV301",
                f"a page of {PAGE_TOKENS} tokens does not hold whole compressed entries",
                where=f"config.json, compress_rates, layer {number} ({layer.kind})",
                expected=f"a divisor of {PAGE_TOKENS}",
                found=str(layer.ratio),
            )
    if options.kv_cache != "fp8":
        return
    nope = config.head_dim - config.qk_rope_head_dim
    if nope % 64:
        raise DsvError(
            "DSV301",
            "an fp8 KV cache needs whole blocks of 64 dims without RoPE",
            where="config.json, head_dim - qk_rope_head_dim",
            expected="a multiple of 64",
            found=str(nope),
            hint="compile with --kv-cache bf16 or f32",
        )
    width = config.index_head_dim
    if any(layer.kind == "csa" for layer in config.layers) and (width % 32 or width & (width - 1)):
        raise DsvError(
            "DSV301",
            "an fp8 plan stores index keys as MXFP4 after a Hadamard transform",
            where="config.json, index_head_dim",
            expected="a power of two, at least 32",
            found=str(width),
            hint="compile with --kv-cache bf16 or f32",
        )
