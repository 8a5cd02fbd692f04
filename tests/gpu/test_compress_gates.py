"""Gates of the compressors and of the indexer's query: the ops pass, planted defects do not. CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cases_latent_compress as compress
import cases_qnorm_rope_kv_insert as insert
import harness
import pytest
import torch

from dsv4c.ir import formats
from dsv4c.ir.cache import CacheLayout
from dsv4c.ir.ops.compressor import compress_pool
from dsv4c.ir.ops.rope import rope
from dsv4c.ir.types import RowsType
from dsv4c.ir.values import CONTEXTS, State

pytestmark = pytest.mark.skipif(harness.DEVICE != "cpu", reason="stand-ins run on the CPU")
EXACT = CONTEXTS["exact"]
Change = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Zeros:
    """A position bias that the gate already holds."""

    dims: tuple[int, int]

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(self.dims, dtype=dtype)


def normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    x = x.double()
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * weight.double()


def stand_in(change: Change = lambda values: None) -> Callable[..., None]:
    """The kernel by its ops; `change` alters what one compressor reads or stores."""

    def kernel(*given: torch.Tensor) -> None:
        q, q_norm, *others = given[:-6]
        step = dict(zip(("pos", "slot", "start", "angles", "entry"), given[-6:-1], strict=True))
        given[-1].copy_(normed(q, q_norm).bfloat16())
        for first in range(0, len(others), 6):
            names = ("rows", "kv", "gate", "ape", "norm", "cache")
            one_compressor({**dict(zip(names, others[first : first + 6], strict=True)), **step})

    def one_compressor(v: dict[str, Any]) -> None:
        width, ratio = v["norm"].shape[0], v["ape"].shape[0]
        v |= {"index": width == compress.INDEX, "ratio": ratio, "bias": v["pos"].long() % ratio}
        change(v)
        gate = v["gate"] + v["ape"][v["bias"]]
        rows = State(RowsType(*v["rows"].shape[1:]), v["rows"])
        bias: Any = Zeros(tuple(v["ape"].shape))
        step = v["pos"], v["slot"], v["start"]
        pooled = compress_pool(EXACT, rows, v["kv"], gate, bias, *step, ratio, width)
        y = rope(EXACT, normed(pooled, v["norm"]), v["angles"], False)
        layout = CacheLayout(
            "mxfp4" if v["index"] else "fp8", width, 0 if v["index"] else 64, 128 // ratio
        )
        y = formats.hadamard(y) if v["index"] and v.get("hadamard", True) else y
        layout.insert(v["cache"], layout.encode(y.bfloat16()), v["entry"].long())

    return kernel


def failed(setup: compress.Setup, kernel: Callable[..., None]) -> set[str]:
    gates = harness.check(compress.make_case(setup), kernel)
    return {gate.name for gate in gates if not gate.ok}


@pytest.mark.parametrize("layer", compress.RATIOS)
@pytest.mark.parametrize("batch", ["edges", "short"])
def test_the_ops_pass(layer: str, batch: str) -> None:
    assert failed(compress.Setup("tiny", layer, "fp8", batch), stand_in()) == set()


def bias_of_the_next_position(v: dict[str, Any]) -> None:
    v["bias"] = (v["bias"] + 1) % v["ratio"]


def angles_of_the_next_token(v: dict[str, Any]) -> None:
    v["angles"] = v["angles"].roll(-1, 0)


def padding_stored(v: dict[str, Any]) -> None:
    v["entry"] = v["entry"].clamp_min(0)


def every_row_the_first_of_its_sequence(v: dict[str, Any]) -> None:
    v["start"] = torch.arange(len(v["pos"]), dtype=torch.int32)


def state_not_written(v: dict[str, Any]) -> None:
    v["rows"] = v["rows"].clone()


def no_hadamard(v: dict[str, Any]) -> None:
    v["hadamard"] = False


def halves_exchanged(v: dict[str, Any]) -> None:
    v["kv"] = v["kv"].roll(v["kv"].shape[1] // 2, 1)


DEFECTS: list[tuple[Change, str, str]] = [
    (bias_of_the_next_position, "csa", "rows"),
    (bias_of_the_next_position, "hca", "rows"),
    (angles_of_the_next_token, "csa", "rope"),
    (padding_stored, "csa", "rest_of_cache"),
    (every_row_the_first_of_its_sequence, "csa", "codes"),
    (every_row_the_first_of_its_sequence, "hca", "codes"),
    (state_not_written, "hca", "rows"),
    (no_hadamard, "csa", "index_codes"),
    (halves_exchanged, "csa", "index_codes"),
]


@pytest.mark.parametrize(
    ("change", "layer", "gate"), DEFECTS, ids=[f"{c.__name__}-{layer}" for c, layer, _ in DEFECTS]
)
def test_a_defect_fails(change: Change, layer: str, gate: str) -> None:
    assert gate in failed(compress.Setup("tiny", layer, "fp8", "short"), stand_in(change))


def query(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """The indexer's query by its ops."""
    return formats.hadamard(rope(EXACT, x, angles, False)).bfloat16().float()


QUERIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "right": lambda y: formats.fake_quant_mxfp4(y, 32),
    "not rounded": lambda y: y,
    "blocks of 16": lambda y: formats.fake_quant_mxfp4(y, 16),
    "rounded down": lambda y: formats.fake_quant_mxfp4(y * 0.97, 32),
}


@pytest.mark.parametrize("name", QUERIES)
def test_the_index_query_is_on_the_grid_of_mxfp4(name: str) -> None:
    def kernel(*given: torch.Tensor) -> None:
        q, kv, norm, angles, cache, slot, index, out, index_out = given
        out.copy_(insert.torch_version(q, kv, norm, angles, cache.clone(), slot.clamp_min(0)))
        keep = slot >= 0
        insert.torch_version(q[keep], kv[keep], norm, angles[keep], cache, slot[keep])
        index_out.copy_(QUERIES[name](query(index, angles)).bfloat16())

    gates = harness.check(insert.make_case(insert.Setup(7, 8, "fp8", index=32)), kernel)
    wrong = {gate.name for gate in gates if not gate.ok}
    assert wrong == (set() if name == "right" else {"index_q_values"})
