"""Writing a checkpoint: shards laid out from headers alone, then filled one tensor at a time."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import threading
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path

from torch import Tensor

from dsv4c.checkpoint.header import ITEM_BYTES, TensorInfo
from dsv4c.checkpoint.reader import INDEX, SINGLE
from dsv4c.errors import DsvError
from dsv4c.folders import locked, work_folder
from dsv4c.models.deepseek_v4.inventory import Header

SHARD_BYTES = 4 << 30
_ALIGN = 8


@contextmanager
def new_folder(out: Path) -> Generator[Path]:
    """A folder beside `out` that gets its name when the body ends well, and vanishes otherwise.

    What killed runs have left there vanishes too.

    Raises:
        DsvError: DSV102, `out` exists; DSV603, the disk refuses.
    """
    work = out
    try:
        with work_folder(out, _require_absent) as work:
            yield work
            with locked(out.parent):
                _require_absent(out)
                work.rename(out)
    except OSError as error:
        raise DsvError(
            "DSV603",
            "the checkpoint cannot be written",
            where=str(error.filename or out).replace(str(work), str(out)),
            found=error.strerror or str(error),
            hint="free disk space, or choose another place",
        ) from None


def _require_absent(out: Path) -> None:
    if os.path.lexists(out):
        hint = "choose another path, or remove it first"
        raise DsvError("DSV102", "the output path exists", where=str(out), hint=hint)


class CheckpointWriter:
    """Safetensors shards and their index, or one model.safetensors, in an existing folder.

    The layout follows from the headers, so tensors may come in any order and only one is in memory.
    The folder is empty, or was begun by an earlier run with the same headers.

    Args:
        folder: where to write.
        headers: dtype and shape of every tensor, in the order of the shards.
        shard_bytes: least size of a shard before the next begins.

    Attributes:
        continued: whether an earlier run had begun every shard.

    Raises:
        DsvError: DSV603, the disk has no room for it.
        OSError: from the disk; `new_folder` tells it in the user's terms.
    """

    def __init__(
        self, folder: Path, headers: Mapping[str, Header], shard_bytes: int = SHARD_BYTES
    ) -> None:
        self.folder = folder
        self.total_bytes = sum(header_bytes(header) for header in headers.values())
        there = sum(file.stat().st_blocks * 512 for file in folder.glob("*.safetensors"))
        require_room(folder, self.total_bytes - there, "checkpoint")
        shards = _split(headers, shard_bytes)
        self.continued = True
        self._waiting: dict[str, TensorInfo] = {}
        for number, shard in enumerate(shards, 1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            path = folder / (file if len(shards) > 1 else SINGLE)
            infos, begun = _begin_shard(path, shard)
            self._waiting |= infos
            self.continued &= begun
        self._weight_map = {name: info.file for name, info in self._waiting.items()}
        self._lock = threading.Lock()
        self._unsynced: dict[str, int] = {}

    @property
    def unsynced(self) -> int:
        """Bytes written since the last `sync`."""
        with self._lock:
            return sum(self._unsynced.values())

    def keep(self, names: Iterable[str]) -> None:
        """Leave tensors as an earlier run has written them."""
        for name in names:
            self._waiting.pop(name)

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        with self._lock:
            files, self._unsynced = list(self._unsynced), {}
        for name in files:
            with (self.folder / name).open("r+b") as file:
                os.fdatasync(file.fileno())

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one tensor, whose bytes must be those of its header; once each, from any thread."""
        assert tuple(tensor.shape) == self._waiting[name].shape, (name, tensor.shape)
        self.write_pieces(name, [tensor])

    def write_pieces(self, name: str, pieces: Iterable[Tensor]) -> None:
        """Write one tensor whose bytes come in pieces; once each, from any thread."""
        info = self._waiting.pop(name)
        with (self.folder / info.file).open("r+b") as file:
            file.seek(info.start)
            for piece in pieces:
                file.write(tensor_bytes(piece))
            assert file.tell() == info.stop, (name, file.tell(), info)
        with self._lock:
            self._unsynced[info.file] = self._unsynced.get(info.file, 0) + info.nbytes

    def finish(self) -> None:
        """Write the index, which a single file does without; every tensor must have been written."""
        assert not self._waiting, f"not written: {min(self._waiting)}"
        if set(self._weight_map.values()) <= {SINGLE}:
            return
        index = {"metadata": {"total_size": self.total_bytes}, "weight_map": self._weight_map}
        (self.folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, without a copy where it is contiguous and on the CPU."""
    tensor = tensor.cpu().contiguous()
    if not tensor.nbytes:
        return memoryview(b"")
    data = (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
    vars(data)["tensor"] = tensor  # the memory lives as long as the view
    return memoryview(data).cast("B")


def require_room(folder: Path, nbytes: int, what: str) -> None:
    """Raise DsvError DSV603 if the disk of a folder has less free than that."""
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise DsvError(
            "DSV603",
            f"the disk has no room for the {what}",
            where=str(folder.parent),
            expected=f"{nbytes:,} bytes",
            found=f"{free:,} bytes free",
        )


def header_bytes(header: Header) -> int:
    """Size of a tensor's data."""
    return ITEM_BYTES[header.dtype] * prod(header.shape)


def shard_layout(
    headers: Mapping[str, Header], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """How a safetensors file begins, and where each tensor lies in it.

    Args:
        headers: tensors of the file.
        metadata: its `__metadata__`, if it shall have one.

    Returns:
        The file up to the data; for each tensor, in the order of the file, the offsets of its first
        byte and past its last.
    """
    # Wide dtypes first: every tensor is then aligned, which some readers need. It is also the order
    # of the safetensors library.
    names = sorted(headers, key=lambda name: (-ITEM_BYTES[headers[name].dtype], name))
    entries: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    ranges: dict[str, tuple[int, int]] = {}
    end = 0
    for name in names:
        header = headers[name]
        ranges[name] = (end, end + header_bytes(header))
        end = ranges[name][1]
        shape = list(header.shape)
        entries[name] = {"dtype": header.dtype, "shape": shape, "data_offsets": ranges[name]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGN)
    head = len(text).to_bytes(8, "little") + text
    return head, {name: (len(head) + a, len(head) + b) for name, (a, b) in ranges.items()}


def _split(headers: Mapping[str, Header], shard_bytes: int) -> list[dict[str, Header]]:
    shards: list[dict[str, Header]] = [{}]
    size = 0
    for name, header in headers.items():
        if size >= shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = header
        size += header_bytes(header)
    return shards


def _begin_shard(path: Path, headers: Mapping[str, Header]) -> tuple[dict[str, TensorInfo], bool]:
    """Write the header of a shard and give the file its size, unless an earlier run did so."""
    head, ranges = shard_layout(headers, {"format": "pt"})
    size = max((stop for _, stop in ranges.values()), default=len(head))
    begun = path.is_file() and path.stat().st_size == size and _head(path, len(head)) == head
    if not begun:
        with path.open("wb") as file:
            file.write(head)
            file.truncate(size)
    infos = {
        name: TensorInfo(headers[name].dtype, headers[name].shape, path.name, start, stop)
        for name, (start, stop) in ranges.items()
    }
    return infos, begun


def _head(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)
