from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dsv4c.codegen.link import link_library
from dsv4c.errors import DsvError
from dsv4c.runtime.kernels import KernelLibrary


def test_what_is_no_object_does_not_link(tmp_path: Path) -> None:
    broken = tmp_path / "kernel.o"
    broken.write_bytes(b"not an object")
    with pytest.raises(DsvError, match="DSV402") as raised:
        link_library([broken], tmp_path / "lib.so")
    assert "kernel.o" in raised.value.found
    assert [path.name for path in tmp_path.iterdir()] == ["kernel.o"]


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(DsvError, match="DSV402") as raised:
        link_library([], tmp_path / "lib.so")
    assert "install gcc" in raised.value.hint


def test_what_is_no_library_does_not_load(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    path.write_bytes(b"not a library")
    with pytest.raises(DsvError, match="DSV604") as raised:
        KernelLibrary(path, [])
    assert raised.value.where == str(path)


def test_without_the_loader_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tvm_ffi", None)
    with pytest.raises(DsvError, match="DSV604") as raised:
        KernelLibrary(tmp_path / "lib.so", [])
    assert "apache-tvm-ffi" in raised.value.hint
