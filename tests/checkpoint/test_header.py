"""Every way in which a safetensors file can be wrong is refused before its data is used."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dsv4c.checkpoint.header import ITEM_BYTES, TensorInfo, read_header
from dsv4c.errors import DsvError

A = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
B = {"dtype": "U8", "shape": [4], "data_offsets": [24, 28]}


def file_of(
    path: Path, header: str | dict[str, Any], data: int = 28, length: int | None = None
) -> Path:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + bytes(data))
    return path


def test_what_safetensors_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tensors = {
        "a": torch.zeros(3, 5, dtype=torch.bfloat16),
        "b": torch.zeros(()),
        "c": torch.zeros(0, 4, dtype=torch.int64),
        "d": torch.zeros(7, dtype=torch.float8_e4m3fn),
        "e": torch.zeros(7, dtype=torch.float8_e8m0fnu),
    }
    save_file(tensors, path, metadata={"format": "pt"})
    infos = read_header(path)
    assert {name: (info.dtype, info.shape) for name, info in infos.items()} == {
        "a": ("BF16", (3, 5)),
        "b": ("F32", ()),
        "c": ("I64", (0, 4)),
        "d": ("F8_E4M3", (7,)),
        "e": ("F8_E8M0", (7,)),
    }
    assert max(info.stop for info in infos.values()) == path.stat().st_size


def test_offsets_are_those_of_the_file(tmp_path: Path) -> None:
    path = file_of(tmp_path / "m.safetensors", {"b": B, "a": A})
    start = path.stat().st_size - 28
    assert list(read_header(path).items()) == [
        ("a", TensorInfo("F32", (2, 3), "m.safetensors", start, start + 24)),
        ("b", TensorInfo("U8", (4,), "m.safetensors", start + 24, start + 28)),
    ]


BAD: list[tuple[str | dict[str, Any], dict[str, int], str]] = [
    ({"a": A, "b": B}, {"data": 27}, "27 bytes missing|truncated"),
    ({"a": A, "b": B}, {"data": 29}, "bytes that no tensor has"),
    ({"a": A, "b": B}, {"length": 1 << 40}, "a length of 1099511627776"),
    ({"a": A, "b": B}, {"length": 0}, "a length of 0"),
    ({"a": A, "b": B}, {"length": 40}, "a JSON object"),
    ("[1, 2]", {}, "a JSON object"),
    ("{" * 9000, {}, "a JSON object"),
    ("[" * 9000, {}, "a JSON object"),
    ('{"a": \xff}', {}, "a JSON object"),
    (f'{{"a": {json.dumps(A)}, "a": {json.dumps(B)}}}', {}, "the name a appears twice"),
    ({"__metadata__": {"k": 1}, "a": A, "b": B}, {}, "strings in __metadata__"),
    ({"a": A, "b": [1]}, {}, "dtype, shape and data_offsets of tensor b"),
    ({"a": A, "b": B | {"x": 1}}, {}, "dtype, shape and data_offsets of tensor b"),
    ({"a": A, "b": B | {"dtype": "F4"}}, {}, "a known dtype of tensor b"),
    ({"a": A, "b": B | {"dtype": ["U8"]}}, {}, "a known dtype of tensor b"),
    ({"a": A, "b": B | {"shape": [-4]}}, {}, "sizes of tensor b"),
    ({"a": A, "b": B | {"shape": [True]}}, {}, "sizes of tensor b"),
    ({"a": A, "b": B | {"data_offsets": [24]}}, {}, "sizes of tensor b"),
    ({"a": A, "b": B | {"shape": [5]}}, {}, "5 bytes of tensor b"),
    ({"a": A, "b": B | {"shape": [2**62, 2**62]}}, {}, "bytes of tensor b"),
    (
        {"a": A, "b": B | {"data_offsets": [20, 24]}},
        {"data": 24},
        "an overlap between tensor a and",
    ),
    ({"a": A, "b": B | {"data_offsets": [25, 29]}}, {"data": 29}, "a hole between tensor a and"),
    ({"a": A | {"data_offsets": [4, 28]}}, {}, "a hole between the header and tensor a"),
]


@pytest.mark.parametrize(("header", "how", "text"), BAD, ids=range(len(BAD)))
def test_malformed_files(
    tmp_path: Path, header: str | dict[str, Any], how: dict[str, int], text: str
) -> None:
    path = file_of(tmp_path / "m.safetensors", header, **how)
    with pytest.raises(DsvError, match=text) as error:
        read_header(path)
    assert error.value.code == "DSV211"
    assert error.value.where == str(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").write_bytes(b"")
    for name, text in (
        ("folder", "a folder or a special file"),
        ("fifo", "a folder or a special file"),
        ("empty", "in a file of 0 bytes"),
        ("missing", "No such file"),
    ):
        with pytest.raises(DsvError, match=text):
            read_header(tmp_path / name)


def test_every_truncation_is_seen(tmp_path: Path) -> None:
    whole = file_of(tmp_path / "m.safetensors", {"a": A, "b": B}).read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(DsvError, match="DSV211"):
            read_header(tmp_path / "cut")


def test_item_sizes_are_those_of_torch() -> None:
    known = {"BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64, "U8": torch.uint8}
    assert {name: ITEM_BYTES[name] for name in known} == {n: d.itemsize for n, d in known.items()}
