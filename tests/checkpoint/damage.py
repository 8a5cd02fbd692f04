"""Damage to the files of a checkpoint folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"

Json = dict[str, Any]
Edit = Callable[[Path], None]


@dataclass(frozen=True)
class Shard:
    """A safetensors file in parts."""

    path: Path
    header: Json
    data: bytes

    @staticmethod
    def read(path: Path) -> Shard:
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        return Shard(path, json.loads(raw[8 : 8 + length]), raw[8 + length :])

    def tensors(self) -> list[str]:
        return [name for name in self.header if name != "__metadata__"]

    def bytes_of(self, name: str) -> bytes:
        start, stop = self.header[name]["data_offsets"]
        return self.data[start:stop]

    def write(self, header: Json | str | None = None, data: bytes | None = None) -> None:
        """Store it with another header or other data."""
        header = self.header if header is None else header
        text = (header if isinstance(header, str) else json.dumps(header)).encode()
        body = self.data if data is None else data
        self.path.write_bytes(len(text).to_bytes(8, "little") + text + body)

    def rebuild(self, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
        """Store other tensors, laid out without holes."""
        header: Json = {}
        data = b""
        for name, (dtype, shape, content) in tensors.items():
            offsets = [len(data), len(data) + len(content)]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
            data += content
        self.write(header, data)

    def content(self) -> dict[str, tuple[str, list[int], bytes]]:
        return {
            name: (self.header[name]["dtype"], self.header[name]["shape"], self.bytes_of(name))
            for name in self.tensors()
        }


def reindex(folder: Path) -> None:
    """An index that agrees with the shards."""
    paths = sorted(folder.glob("*.safetensors"))
    names = {name: path.name for path in paths for name in Shard.read(path).tensors()}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


def u64(value: int) -> bytes:
    return (
        value.to_bytes(8, "little")
        if value >= 0
        else (1 << 64).__sub__(-value).to_bytes(8, "little")
    )


def patch(file: str, place: int, content: bytes) -> Edit:
    def apply(folder: Path) -> None:
        with (folder / file).open("r+b") as opened:
            opened.seek(place)
            opened.write(content)

    return apply


def shard(file: str, change: Callable[[Shard], None]) -> Edit:
    return lambda folder: change(Shard.read(folder / file))


def entry(file: str, name: str, change: Callable[[Json], object]) -> Edit:
    def apply(shard: Shard) -> None:
        change(shard.header[name])
        shard.write()

    return shard(file, apply)


def field(file: str, name: str, key: str, value: object) -> Edit:
    return entry(file, name, lambda entry: entry.update({key: value}))


def duplicate(shard: Shard, name: str) -> None:
    entry = f'"{name}": {json.dumps(shard.header[name])}'
    shard.write(json.dumps(shard.header)[:-1] + f", {entry}}}")


def insert(shard: Shard, name: str, count: int) -> None:
    """Move a tensor and all that follow it; the data moves along, so every size stays right."""
    start = shard.header[name]["data_offsets"][0]
    for other in shard.tensors():
        a, b = shard.header[other]["data_offsets"]
        if a >= start:
            shard.header[other]["data_offsets"] = [a + count, b + count]
    data = shard.data[:start] + bytes(max(count, 0)) + shard.data[start - min(count, 0) :]
    shard.write(data=data)


def truncate(file: str, length: int) -> Edit:
    return lambda folder: os.truncate(folder / file, length)


def other_shapes(shape: list[int]) -> Iterator[list[Any]]:
    yield [*shape, 1]
    yield [1, *shape]
    if len(shape) > 1 and shape[0] != shape[1]:
        yield [*shape[::-1]]
    if shape:
        yield [shape[0] + 1, *shape[1:]]
        yield [-shape[0], *shape[1:]]
        yield [float(shape[0]), *shape[1:]]
    if len(shape) > 1:
        yield [shape[0] * shape[1], *shape[2:]]


def rename(file: str, old: str, new: str) -> Edit:
    def change(shard: Shard) -> None:
        shard.rebuild({new if n == old else n: value for n, value in shard.content().items()})

    return shard(file, change)


def drop(file: str, name: str) -> Edit:
    return shard(file, lambda s: s.rebuild({n: v for n, v in s.content().items() if n != name}))


def add(file: str, name: str) -> Edit:
    return shard(file, lambda s: s.rebuild(s.content() | {name: ("BF16", [2, 2], bytes(8))}))


def text(file: str, text: str) -> Edit:
    def apply(folder: Path) -> None:
        (folder / file).write_text(text)

    return apply


def edit_text(file: str, change: Callable[[str], str]) -> Edit:
    return lambda folder: text(file, change((folder / file).read_text()))(folder)


def map(change: Callable[[dict[str, str]], object], indexed: bool = True) -> Edit:
    def apply(folder: Path) -> None:
        if not indexed:
            reindex(folder)
        index = json.loads((folder / INDEX).read_text())
        change(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return apply


def config(change: Callable[[Json], None]) -> Edit:
    def apply(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        change(content)
        (folder / "config.json").write_text(json.dumps(content))

    return apply


def remove(file: str) -> Edit:
    return lambda folder: (folder / file).unlink()


def swap(first: str, second: str) -> Edit:
    def apply(folder: Path) -> None:
        (folder / first).rename(folder / "x")
        (folder / second).rename(folder / first)
        (folder / "x").rename(folder / second)

    return apply


def copy(first: str, second: str) -> Edit:
    def apply(folder: Path) -> None:
        shutil.copyfile(folder / first, folder / second)

    return apply


def hard_link(first: str, second: str) -> Edit:
    def apply(folder: Path) -> None:
        (folder / second).unlink()
        (folder / second).hardlink_to(folder / first)

    return apply


def moved_out(path: Path) -> Path:
    outside = path.parent.parent / "outside"
    outside.mkdir(exist_ok=True)
    return path.rename(outside / path.name)


def link_out(path: Path) -> None:
    path.symlink_to(moved_out(path))


def hard_link_out(path: Path) -> None:
    path.hardlink_to(moved_out(path))


def link_inside(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("moved.data")).name)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_folder(path: Path) -> None:
    path.unlink()
    path.symlink_to(".")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def pickle(folder: Path, suffix: str) -> None:
    for path in (*folder.glob("*.safetensors"), folder / INDEX):
        path.unlink(missing_ok=True)
    (folder / f"pytorch_model{suffix}").write_bytes(b"cos\nsystem\n.")


def write_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(b"\x01" * 64)


def replace(path: Path) -> None:
    other = path.with_name("other")
    shutil.copyfile(path, other)
    other.replace(path)
