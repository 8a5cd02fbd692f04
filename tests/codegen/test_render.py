from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import jinja2
import pytest

from dsv4c import templates
from dsv4c.codegen import render as rendering
from dsv4c.codegen.kernel import ARCHS, KernelParams, check_arch, family, kinds
from dsv4c.codegen.kernels import qnorm_rope_kv_insert as insert
from dsv4c.codegen.render import render
from dsv4c.errors import DsvError


@pytest.mark.parametrize("cache", insert.CACHES)
def test_rendered_text(cache: str, golden: Callable[[str, str], None]) -> None:
    params = insert.choose(64, cache, 128, "sm_90a")
    source = render(insert.KIND, params, "sm_90a", ["layers.0.attn", "layers.1.attn"])
    assert source.name == f"qnorm_rope_kv_insert_h64_{cache}_n128"
    golden(f"kernels/{source.name}.sm_90a.py", source.text)


def test_rendered_text_has_no_lint() -> None:
    sources = [
        render(insert.KIND, insert.choose(heads, cache, 128, arch), arch)
        for heads in (8, 128)
        for cache in insert.CACHES
        for arch in ARCHS
    ]
    for source in sources:
        assert max(len(line) for line in source.text.splitlines()) <= 110
        command = [sys.executable, "-m", "ruff", "check", "--select", "F,E7,W", "--isolated", "-"]
        done = subprocess.run(
            command, input=source.text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_the_header_says_template_parameters_and_users() -> None:
    params = insert.choose(8, "fp8", 128, "sm_90a")
    users = [f"layers.{i}.attn.kv_norm" for i in range(40)]
    lines = render(insert.KIND, params, "sm_90a", users).header.splitlines()
    assert lines[0].startswith("# Kernel qnorm_rope_kv_insert_h8_fp8_n128 for sm_90a")
    assert lines[2] == "# Template: qnorm_rope_kv_insert.py.jinja"
    assert lines[3].startswith("# Parameters: heads=8, cache=fp8, page=128, eps=1e-06")
    assert max(map(len, lines)) <= 100
    assert all(user in "".join(lines) for user in users)


def test_provenance_is_not_in_the_body() -> None:
    params = insert.choose(8, "fp8", 128, "sm_90a")
    one, two = (render(insert.KIND, params, "sm_90a", [user]) for user in ("a", "b\n import os"))
    assert one.body == two.body
    assert "\n import os" not in two.header


def test_an_undefined_name_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> str:
        return "{{ no_such_name }}"

    monkeypatch.setattr(templates, "load", load)
    rendering.environment.cache_clear()
    with pytest.raises(jinja2.UndefinedError, match="no_such_name"):
        render(insert.KIND, insert.choose(8, "fp8", 128, "sm_90a"), "sm_90a")
    rendering.environment.cache_clear()


def test_only_numbers_and_identifiers_reach_a_template() -> None:
    params = replace(insert.choose(8, "fp8", 128, "sm_90a"), cache="fp8'; import os")
    with pytest.raises(AssertionError, match="neither a number nor an identifier"):
        render(insert.KIND, params, "sm_90a")


def test_every_kind_has_a_template_and_every_template_ends_in_a_newline() -> None:
    assert insert.KIND in kinds()
    assert insert.KIND in templates.names()
    assert all(templates.load(name).endswith("\n") for name in templates.names())


def test_unknown_kind_and_arch() -> None:
    with pytest.raises(DsvError, match="DSV303"):
        family("no_such_kind")
    with pytest.raises(DsvError, match="DSV302"):
        check_arch("sm_80")
    with pytest.raises(DsvError, match="DSV302"):
        render(insert.KIND, insert.choose(8, "fp8", 128, "sm_90a"), "sm_80")


def test_params_as_values() -> None:
    params: KernelParams = insert.choose(8, "bf16", 128, "sm_90a")
    names = ["heads", "cache", "page", "eps", "warps", "pdl", "index_heads"]
    assert list(params.values()) == names
