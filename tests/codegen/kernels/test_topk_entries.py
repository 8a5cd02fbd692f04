from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dsv4c.codegen.build import build_kernels
from dsv4c.codegen.cache import KernelCache
from dsv4c.codegen.kernel import ARCHS, NodeFacts, Refusal, ValueFacts
from dsv4c.codegen.kernels import topk_entries as family
from dsv4c.codegen.render import render
from dsv4c.codegen.tiles.topk_entries import TOPK_ENTRIES

SCORES = ValueFacts("tensor", "f32", ("T", "32*P"))
POS = ValueFacts("tensor", "i32", ("T",))
TABLE = ValueFacts("tensor", "i32", ("S", "P"))
ALL = (SCORES, POS, POS, TABLE)


def select(*inputs: ValueFacts, k: int = 512, page: int = 32) -> family.Params | Refusal:
    index = ValueFacts("tensor", "i32", ("T", k))
    attrs = {"ratio": 4, "page": page, "k": k}
    return family.select(NodeFacts(family.KIND, inputs, (index,), attrs), "sm_90a")


def test_rendered_text(golden: Callable[[str, str], None]) -> None:
    source = render(family.KIND, family.Params(512, 4), "sm_90a", ["layers.2"])
    golden(f"kernels/{source.name}.sm_90a.py", source.text)


@pytest.mark.parametrize("arch", ARCHS)
def test_rendered_text_has_no_lint(arch: str) -> None:
    text = render(family.KIND, family.Params(64, 4), arch).text
    assert max(len(line) for line in text.splitlines()) <= 120
    command = [sys.executable, "-m", "ruff", "check", "--select", "F,E7,W", "--isolated", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("k", [64, 512, 1024])
def test_params_from_facts(k: int) -> None:
    params = select(*ALL, k=k)
    assert isinstance(params, family.Params)
    assert params == family.Params(k, 4)
    assert family.kernel_name(params, "sm_90a") == f"topk_entries_k{k}_r4"


@pytest.mark.parametrize(
    ("inputs", "k", "page", "reason"),
    [
        (ALL, 4096, 32, "4096 entries wanted, not 1 to 2048"),
        (ALL, 512, 1, "1 entries per page, not 32"),
        ((replace(SCORES, dtype="bf16"), *ALL[1:]), 512, 32, "scores bf16, not f32"),
        (ALL[1:], 512, 32, "3 inputs and 1 outputs, not 4 and 1"),
    ],
)
def test_refuses(inputs: tuple[ValueFacts, ...], k: int, page: int, reason: str) -> None:
    refusal = select(*inputs, k=k, page=page)
    assert isinstance(refusal, Refusal)
    assert re.search(reason, refusal.reason)


def test_tiles_fit() -> None:
    limits = [tile.most for tile in TOPK_ENTRIES]
    assert limits[:-1] == sorted(set(limits[:-1]))
    assert limits[-1] == 0
    for tile in TOPK_ENTRIES:
        assert tile.split in (1, 2, 4, 8)
        # a thread has whole quads of the 4096 digits
        assert 4096 // 4 % tile.threads in (0, 4096 // 4)
        assert tile.threads <= 1024


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_compiles_without_spills(arch: str, tmp_path: Path) -> None:
    source = render(family.KIND, family.Params(64, 4), arch)
    (entry,) = build_kernels([source], cache=KernelCache(tmp_path), workers=1)
    assert entry.resources.spills == 0
