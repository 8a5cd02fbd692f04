from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from dsv4c.codegen import keys
from dsv4c.codegen.kernel import KernelSource
from dsv4c.codegen.keys import kernel_key, tool_versions

MakeSource = Callable[..., KernelSource]


def test_the_key_is_over_what_shapes_the_object(make_source: MakeSource) -> None:
    source = make_source()
    changed = [
        replace(source, body=source.body + "\n"),
        replace(source, arch="sm_100a"),
        replace(source, name="another"),
    ]
    digests = {kernel_key(item).digest for item in (source, *changed)}
    assert len(digests) == 4


def test_header_parameters_and_kind_are_not_in_the_key(make_source: MakeSource) -> None:
    source = make_source()
    other = replace(source, header="# other\n", kind="k", params={"a": 1})
    assert kernel_key(other) == kernel_key(source)


def test_a_new_compiler_back_end_changes_the_key(
    make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kernel_key(make_source()).digest
    newer = {**tool_versions(), "nvidia-cutlass-dsl-libs-cu12": "9.9.9"}
    monkeypatch.setattr(keys, "tool_versions", lambda: newer)
    assert kernel_key(make_source()).digest != before


def test_every_distribution_of_the_compiler_counts() -> None:
    names = list(tool_versions())
    assert names == sorted(names)
    assert {"apache-tvm-ffi", "nvidia-cutlass-dsl"} <= set(names)
    assert any(name.startswith("nvidia-cutlass-dsl-libs") for name in names)


def test_parts_and_folder(make_source: MakeSource) -> None:
    key = kernel_key(make_source())
    assert key.parts["arch"] == "sm_90a"
    assert re.fullmatch(r"[0-9a-f]{64}", key.parts["source_sha256"])
    assert re.fullmatch(r"reverse_256__[0-9a-f]{12}", key.folder)
