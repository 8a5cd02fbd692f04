"""Which models and options are refused before anything is built, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small

import dsv4c
from dsv4c.errors import DsvError
from dsv4c.models.deepseek_v4.build import BuildOptions, check_supported
from dsv4c.models.deepseek_v4.config import parse_config


def rates(csa: int, hca: int) -> dict[str, Any]:
    """config.json with compress_rates, which only the transformers flavour has."""
    raw = small.small_config()
    kinds = {0: "sliding_attention", 4: "compressed_sparse_attention"}
    kinds[128] = "heavily_compressed_attention"
    raw["layer_types"] = [kinds[ratio] for ratio in raw.pop("compress_ratios")]
    return raw | {"compress_rates": {kinds[4]: csa, kinds[128]: hca}}


@pytest.mark.parametrize(
    ("raw", "cache", "where", "expected", "found"),
    [
        (rates(3, 128), "f32", "layer 0 (csa)", "a divisor of 128", "3"),
        (rates(4, 256), "f32", "layer 1 (hca)", "a divisor of 128", "256"),
        (
            small.small_config(head_dim=96),
            "fp8",
            "head_dim - qk_rope_head_dim",
            "a multiple of 64",
            "80",
        ),
        (
            small.small_config(index_head_dim=48),
            "fp8",
            "index_head_dim",
            "a power of two, at least 32",
            "48",
        ),
        (
            small.small_config(index_head_dim=16),
            "fp8",
            "index_head_dim",
            "a power of two, at least 32",
            "16",
        ),
    ],
)
def test_refused(raw: dict[str, Any], cache: str, where: str, expected: str, found: str) -> None:
    with pytest.raises(DsvError) as caught:
        check_supported(parse_config(raw), BuildOptions(kv_cache=cache))
    error = caught.value
    assert (error.code, error.exit_code) == ("DSV301", 4)
    assert where in error.where
    assert (error.expected, error.found) == (expected, found)


@pytest.mark.parametrize("cache", ["f32", "bf16"])
@pytest.mark.parametrize("change", [{"head_dim": 96}, {"index_head_dim": 48}])
def test_plain_caches_take_any_width(change: dict[str, Any], cache: str) -> None:
    check_supported(parse_config(small.small_config(**change)), BuildOptions(kv_cache=cache))


def test_fp8_does_not_ask_for_an_index_where_there_is_none() -> None:
    raw = small.small_config(index_head_dim=48, compress_ratios=[0, 128, 128, 0])
    check_supported(parse_config(raw), BuildOptions(kv_cache="fp8"))


def test_compile_refuses_and_leaves_nothing(tmp_path: Path) -> None:
    model = small.write_small(tmp_path / "model", index_head_dim=48)
    with pytest.raises(DsvError, match="DSV301") as caught:
        dsv4c.compile(model, tmp_path / "plan")
    assert caught.value.hint == "compile with --kv-cache bf16 or f32"
    assert not (tmp_path / "plan").exists()
