"""A checkpoint folder, opened: every header checked at once, bytes read on demand.

Data is read into memory rather than mapped: a file that shrinks underneath is an error here, not a
bus fault later.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor

from dsv4c.checkpoint.header import TensorInfo, read_header
from dsv4c.errors import DsvError
from dsv4c.ir.weight_checks import check_component
from dsv4c.ir.weight_formats import Shape, weight_format
from dsv4c.models.deepseek_v4.names import TensorSlice, WeightSource
from dsv4c.untrusted import Stamp, Unreadable, inside, is_plain, open_regular, read_json

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PIECE_BYTES = 1 << 20
_AHEAD = 8  # pieces that the disk is asked for before they are read

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# 8-bit floats and packed nibbles are bytes everywhere in the project.
_TORCH_DTYPES = {
    "BOOL": torch.bool,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with config.json and safetensors files; make one with `Checkpoint.open`.

    Attributes:
        path: the folder.
        tensors: header of each tensor, file after file.
        stamps: what each file was when its header was read; it must stay that while it is read.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    stamps: Mapping[str, Stamp] = field(default_factory=dict[str, Stamp])

    @staticmethod
    def open(path: str | Path) -> Checkpoint:
        """Check a checkpoint folder and read its headers.

        Files may be links inside the folder, or into the `blobs` of a Hugging Face cache.

        Raises:
            DsvError: DSV201, there is no config.json; DSV211, a weight file is missing, truncated,
                malformed, or contradicts the index.
        """
        folder = Path(path)
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing"
            hint = "give the folder that holds config.json and the safetensors files"
            raise _error("the checkpoint is not a folder", folder, "a folder", found, hint)
        if not inside(folder, CONFIG).is_file():
            message = f"{CONFIG} is missing"
            raise DsvError("DSV201", message, where=str(folder / CONFIG), found="nothing")
        indexed = os.path.lexists(folder / INDEX)
        weight_map = _read_index(inside(folder, INDEX)) if indexed else {}
        files = list(dict.fromkeys(weight_map.values())) if indexed else [_single(folder)]
        stamps = {file: _stamp(inside(folder, file)) for file in files}
        shards = {file: read_header(folder / file) for file in files}
        tensors = _indexed(folder, shards, weight_map) if indexed else shards[files[0]]
        return Checkpoint(folder, MappingProxyType(tensors), MappingProxyType(stamps))

    def read(self, name: str, lead: int | None = None) -> Tensor:
        """One tensor, or its `lead`-th part along the first dim; 8-bit types come as uint8.

        Raises:
            DsvError: DSV211, the file has changed since it was opened.
        """
        shape = self.tensors[name].shape
        first = 0
        if lead is not None:
            first, shape = lead * prod(shape[1:]), shape[1:]
        return self.read_range(name, first, prod(shape)).reshape(shape)

    def read_range(
        self, name: str, first: int, count: int, memory: bytearray | None = None
    ) -> Tensor:
        """Elements first to first + count of a tensor in memory order, [count]; errors as `read`.

        With `memory`, which is large enough, they may lie there.
        """
        info = self.tensors[name]
        dtype = _torch_dtype(info)
        if not count:
            return torch.empty(0, dtype=dtype)
        data = bytearray(count * dtype.itemsize) if memory is None else memory
        part = memoryview(data)[: count * dtype.itemsize]
        self._read_into(part, name, info.start + first * dtype.itemsize)
        return torch.frombuffer(data, dtype=dtype, count=count)

    def _read_into(self, view: memoryview, name: str, start: int) -> None:
        """Fill `view` from the file of a tensor, which must not have changed."""
        file_name = self.tensors[name].file
        path, done = self.path / file_name, 0
        try:
            with open_regular(path) as file:
                stamp = Stamp.of(file)
                while count := os.preadv(file.fileno(), [view[done:]], start + done):
                    done += count
                same = Stamp.of(file) == stamp == self.stamps.get(file_name, stamp)
        except (OSError, Unreadable) as error:
            text = f"{error}, at tensor {name}"
            raise _error("a checkpoint file cannot be read", path, "a file", text) from None
        if done != len(view) or not same:
            what = "a checkpoint file has changed since it was opened"
            found = f"another file, size or time of writing at the reading of tensor {name}"
            hint = "start again when nothing writes to the checkpoint"
            raise _error(what, path, "an unchanged file", found, hint)

    def read_weight(self, source: WeightSource) -> tuple[Tensor, ...]:
        """Component tensors of a weight, in the order of its format, experts stacked.

        Raises:
            DsvError: DSV211, a file has changed; DSV213, a value is not finite or a scale
                is outside its contract.
        """
        shapes = weight_format(source.format).component_shapes(source.shape)
        tensors: list[Tensor] = []
        for shape, (component, slices) in zip(shapes, source.components, strict=True):
            parts = [self._part(source, component, piece) for piece in slices]
            whole = torch.stack(parts) if len(parts) > 1 else parts[0]
            tensors.append(whole.reshape(shape))
        return tuple(tensors)

    def read_expert(self, source: WeightSource, expert: int) -> tuple[Tensor, ...]:
        """Component tensors of one expert of a stacked weight; errors as `read_weight`."""
        count = len(source.components)
        return tuple(self.read_component(source, number, expert) for number in range(count))

    def read_component(
        self, source: WeightSource, number: int, expert: int | None = None
    ) -> Tensor:
        """One component of a weight that is not stacked, or of one expert; errors as `read_weight`.

        Args:
            source: the weight.
            number: of the component in its format.
            expert: number, for a stacked weight.
        """
        component, slices = source.components[number]
        logical = source.shape if expert is None else source.shape[1:]
        shape = weight_format(source.format).component_shapes(logical)[number]
        stacked = len(self.tensors[slices[0].name].shape) > len(shape)
        piece, lead = (slices[0], expert) if stacked else (slices[expert or 0], None)
        return self._part(source, component, piece, lead)

    def stream_component(self, source: WeightSource, number: int) -> Iterator[Tensor]:
        """One component of a weight in memory order, in flat pieces of up to `PIECE_BYTES`.

        A piece is valid until the next is taken, which may lie at the same place. Errors as
        `read_weight`.
        """
        component, slices = source.components[number]
        memory = bytearray(PIECE_BYTES)
        ahead: deque[tuple[TensorSlice, int, int]] = deque()
        for one in (*self._ranges(slices), *[None] * _AHEAD):
            if one is not None:
                self.prefetch(one[0].name, *one[1:])
                ahead.append(one)
            if ahead and (one is None or len(ahead) > _AHEAD):
                piece, first, count = ahead.popleft()
                tensor = self.read_range(piece.name, first, count, memory)
                yield self._checked(source, component, piece, tensor)

    def prefetch(self, name: str, first: int, count: int) -> None:
        """Have the disk read what `read_range` will be asked for; there is no error."""
        info = self.tensors[name]
        size = _torch_dtype(info).itemsize
        with suppress(OSError, Unreadable), open_regular(self.path / info.file) as file:
            where = info.start + first * size
            os.posix_fadvise(file.fileno(), where, count * size, os.POSIX_FADV_WILLNEED)

    def _ranges(self, slices: Iterable[TensorSlice]) -> Iterator[tuple[TensorSlice, int, int]]:
        """(tensor, first element, count) of each piece."""
        for piece in slices:
            info = self.tensors[piece.name]
            most = PIECE_BYTES // _torch_dtype(info).itemsize
            for first, count in _runs(info.shape, piece.rows):
                for start in range(first, first + count, most):
                    yield piece, start, min(most, first + count - start)

    def _part(
        self, source: WeightSource, component: str, piece: TensorSlice, lead: int | None = None
    ) -> Tensor:
        tensor = self.read(piece.name, lead)
        if piece.rows is not None:
            tensor = tensor[..., slice(*piece.rows), :]
        return self._checked(source, component, piece, tensor)

    def _checked(
        self, source: WeightSource, component: str, piece: TensorSlice, tensor: Tensor
    ) -> Tensor:
        if source.format == "f32":
            tensor = tensor.to(torch.float32)
        where = f"{self.path / self.tensors[piece.name].file}, tensor {piece.name}"
        check_component(source.format, component, tensor, where)
        return tensor


def _torch_dtype(info: TensorInfo) -> torch.dtype:
    return _TORCH_DTYPES.get(info.dtype, torch.uint8)


def _runs(shape: Shape, rows: tuple[int, int] | None) -> Iterator[tuple[int, int]]:
    """(first element, count) of each stretch of a tensor, or of a range of its second to last dim."""
    if rows is None:
        yield 0, prod(shape)
        return
    columns, height = shape[-1], shape[-2]
    for lead in range(prod(shape[:-2])):
        yield (lead * height + rows[0]) * columns, (rows[1] - rows[0]) * columns


def _stamp(path: Path) -> Stamp:
    try:
        with open_regular(path) as file:
            return Stamp.of(file)
    except Unreadable as error:
        what = "a checkpoint file is missing, truncated or malformed"
        raise _error(what, path, "a regular file", str(error)) from None


def _indexed(
    folder: Path, shards: Mapping[str, dict[str, TensorInfo]], weight_map: Mapping[str, str]
) -> dict[str, TensorInfo]:
    """Headers of the shards that the index names, each tensor where the index says."""
    tensors: dict[str, TensorInfo] = {}
    for file, shard in shards.items():
        for name, info in shard.items():
            if weight_map.get(name) != file:
                found = f"tensor {name}, which the index has in {weight_map.get(name, 'no file')}"
                expected = "the tensors that the index lists for it"
                raise _error("a shard contradicts the index", folder / file, expected, found)
            tensors[name] = info
    if missing := weight_map.keys() - tensors.keys():
        name = min(missing)
        where, expected = folder / weight_map[name], f"tensor {name}, as the index says"
        raise _error("a shard contradicts the index", where, expected, "no such tensor")
    return tensors


def _read_index(path: Path) -> dict[str, str]:
    """The index: tensor name -> file name."""
    expected = "a JSON object with weight_map, an object of tensor name -> file name"
    try:
        index = cast(dict[str, object], read_json(path))
        weight_map = cast(dict[str, object], index["weight_map"])
        files = list(weight_map.values())
    except Unreadable as error:
        raise _error("the index cannot be read", path, expected, str(error)) from None
    except (KeyError, TypeError, AttributeError):
        raise _error("the index is malformed", path, expected, "something else") from None
    for text in (*weight_map, *files):
        if not isinstance(text, str) or not is_plain(text):
            raise _error("the index is malformed", path, expected, ascii(text)[:80])
    if not files:
        raise _error("the index is malformed", path, expected, "no tensors")
    return cast(dict[str, str], weight_map)


def _single(folder: Path) -> str:
    """The one safetensors file of a checkpoint without an index."""
    files = sorted(file.name for file in folder.iterdir())
    found = [file for file in files if file.endswith(".safetensors")]
    if SINGLE in found or len(found) == 1:
        return SINGLE if SINGLE in found else found[0]
    expected = f"{INDEX}, or one safetensors file"
    if found:
        text = f"{len(found)} safetensors files and no index"
        raise _error("the index is missing", folder, expected, text, "fetch the index too")
    pickles = [file for file in files if file.endswith(_PICKLES)]
    if pickles:
        hint = "loading a pickle runs the code in it; convert the checkpoint to safetensors"
        raise _error(
            "the weights are pickle files", folder / pickles[0], expected, "a pickle", hint
        )
    raise _error("the folder holds no weights", folder, expected, "no safetensors file")


def _error(
    what: str, where: Path, expected: str, found: str, hint: str = "fetch the checkpoint again"
) -> DsvError:
    return DsvError("DSV211", what, where=str(where), expected=expected, found=found, hint=hint)
