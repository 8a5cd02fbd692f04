"""The header of a safetensors file, checked in full before any byte of data is used.

A file is: 8 bytes little-endian length N, N bytes of JSON, data. The JSON object maps tensor names to
dtype, shape and data offsets. Here the ranges must cover the data exactly, without overlap or hole, so
a truncated or damaged file cannot pass.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TypeGuard, cast

from dsv4c.errors import DsvError
from dsv4c.untrusted import Unreadable, is_plain, open_regular, unique_names

MAX_HEADER_BYTES = 100_000_000

ITEM_BYTES: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
        **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
        **dict.fromkeys(("U32", "I32", "F32"), 4),
        **dict.fromkeys(("U64", "I64", "F64"), 8),
    }
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies.

    Attributes:
        dtype: safetensors name, a key of `ITEM_BYTES`.
        shape: dims.
        file: name of the file in the checkpoint folder.
        start: offset of its first byte in that file.
        stop: offset past its last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


class _Malformed(Exception):
    """A rule of the format is broken; carries (expected, found)."""


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Tensors of one safetensors file, in the order of their data.

    Raises:
        DsvError: DSV211, the file is missing, no regular file, truncated, or breaks the format.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                text = f"a length of {length} in a file of {size} bytes"
                raise _Malformed("a safetensors header", text)
            header = _parse(file.read(length))
        start = 8 + length
        infos = [_info(name, entry, path.name, start) for name, entry in header.items()]
        tensors = dict(sorted(infos, key=lambda item: (item[1].start, item[1].stop)))
        _require_tiled(tensors, start, size)
    except _Malformed as error:
        expected, found = error.args
        raise _malformed(path, expected, found) from None
    except Unreadable as error:
        raise _malformed(path, "a regular file", str(error)) from None
    except OSError as error:
        raise _malformed(path, "a readable file", error.strerror or str(error)) from None
    return tensors


def _malformed(path: Path, expected: str, found: str) -> DsvError:
    return DsvError(
        "DSV211",
        "a checkpoint file is missing, truncated or malformed",
        where=str(path),
        expected=expected,
        found=found,
        hint="fetch the file again",
    )


def _parse(text: bytes) -> dict[str, object]:
    if not text.startswith(b"{"):
        raise _Malformed("a JSON object", repr(text[:16]))
    try:
        header: dict[str, object] = json.loads(text, object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        raise _Malformed("a JSON object with each name once", str(error)) from None
    metadata = header.pop("__metadata__", {})
    strings = isinstance(metadata, dict) and all(
        isinstance(value, str) for value in cast(dict[str, object], metadata).values()
    )
    if not strings:
        raise _Malformed("strings in __metadata__", str(metadata)[:80])
    return header


def _info(name: str, entry: object, file: str, base: int) -> tuple[str, TensorInfo]:
    fields = cast(dict[str, object], entry) if isinstance(entry, dict) else {}
    if set(fields) != {"dtype", "shape", "data_offsets"}:
        raise _Malformed(f"dtype, shape and data_offsets of tensor {name}", str(entry)[:80])
    if not is_plain(name):
        raise _Malformed("names of printable ASCII", ascii(name)[:200])
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _Malformed(f"a known dtype of tensor {name}", ascii(dtype))
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise _Malformed(f"sizes of tensor {name}", f"shape {shape}, data_offsets {offsets}"[:120])
    start, stop = offsets
    nbytes = prod(shape) * ITEM_BYTES[dtype]
    if stop - start != nbytes:
        text = f"{nbytes} bytes of tensor {name}, {dtype} {shape}"
        raise _Malformed(text, f"data_offsets {offsets}, {stop - start} bytes")
    return name, TensorInfo(dtype, tuple(shape), file, base + start, base + stop)


def _sizes(value: object) -> TypeGuard[list[int]]:
    if not isinstance(value, list):
        return False
    items = cast(list[object], value)
    return all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in items)


def _require_tiled(tensors: Mapping[str, TensorInfo], start: int, size: int) -> None:
    """Ranges, sorted by start, must follow one another from `start` to the end of the file."""
    end, last = start, "the header"
    for name, info in tensors.items():
        if info.start != end:
            kind = "an overlap" if info.start < end else "a hole"
            raise _Malformed(
                "data without overlap or hole", f"{kind} between {last} and tensor {name}"
            )
        end, last = info.stop, f"tensor {name}"
    if end != size:
        kind = "truncated" if size < end else "with bytes that no tensor has"
        raise _Malformed(f"{end} bytes", f"{size} bytes, {kind}")
