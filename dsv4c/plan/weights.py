"""Weights of a plan: components as kernels take them, in safetensors shards."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.checkpoint.writer import header_bytes, require_room, shard_layout, tensor_bytes
from dsv4c.errors import DsvError
from dsv4c.ir.graph import Graph
from dsv4c.ir.types import WeightType
from dsv4c.ir.values import Weight
from dsv4c.ir.weight_formats import Shape, weight_format
from dsv4c.models.deepseek_v4.inventory import Header
from dsv4c.models.deepseek_v4.names import WeightSource
from dsv4c.plan import manifest
from dsv4c.plan.entries import WrittenWeights, entries
from dsv4c.plan.files import HashedFile, inside
from dsv4c.plan.forms import Form, packed_form, packed_shapes, unpacked
from dsv4c.plan.pieces import component_pieces
from dsv4c.plan.synthetic import SyntheticReader
from dsv4c.settings import JOBS

SHARD_BYTES = 1 << 30
_DTYPES = {"u8": "U8", "bf16": "BF16", "f32": "F32", "i64": "I64"}


@dataclass(frozen=True, slots=True)
class _Stored:
    """One tensor of a weight file."""

    header: Header
    dtype: torch.dtype
    pieces: Callable[[], Iterator[Tensor]]


def write_weights(
    folder: Path,
    graph: Graph,
    checkpoint: Checkpoint,
    sources: Mapping[str, WeightSource],
    stored: Sequence[Form],
    progress: Callable[[int, int], None],
) -> WrittenWeights:
    """Store weights under `folder/weights`.

    The layout of the files follows from headers, so they are written front to back, several at once.
    Each keeps a piece of a tensor in memory, or one matrix of the weights that are packed as one.

    Args:
        folder: the plan under construction.
        graph: says which weights there are.
        checkpoint: where the tensors come from.
        sources: which tensors make each weight.
        stored: what is written, in order; see `dsv4c.plan.forms.forms`.
        progress: called with (tensors done, tensors in all).

    Raises:
        DsvError: DSV211 or DSV213 from reading, DSV603 if the disk has no room.
    """
    (folder / "weights").mkdir()
    shards = _shards({form: _tensors(checkpoint, form, sources) for form in stored})
    tensors = [one for shard in shards for one in shard.values()]
    require_room(folder, sum(header_bytes(one.header) for one in tensors), "plan")
    names = [f"weights/weights-{number:05d}.safetensors" for number in range(1, len(shards) + 1)]
    writer = _Writer(folder, len(tensors), progress)
    with _torch_threads(1), ThreadPoolExecutor(JOBS.resolve(None).value) as pool, writer:
        digests = list(pool.map(writer.write, names, shards))
    components = {
        key: manifest.Component(
            key, name, str(one.dtype).removeprefix("torch."), list(one.header.shape)
        )
        for name, shard in zip(names, shards, strict=True)
        for key, one in shard.items()
    }
    return entries(graph, sources, stored, components, dict(zip(names, digests, strict=True)))


@contextmanager
def _torch_threads(count: int) -> Generator[None]:
    """Every thread that begins inside computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Writer:
    """Writes shards, several at once; when its block is left by an error, the others stop too."""

    def __init__(self, folder: Path, tensors: int, progress: Callable[[int, int], None]) -> None:
        self._folder, self._total, self._progress = folder, tensors, progress
        self._done, self._stopped, self._lock = 0, False, Lock()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped = True

    def write(self, name: str, shard: Mapping[str, _Stored]) -> str:
        """Write one file; its SHA-256."""
        head, ranges = shard_layout({key: one.header for key, one in shard.items()})
        with HashedFile(self._folder / name) as file:
            file.write(head)
            for key in ranges:
                for piece in shard[key].pieces():
                    if self._stopped:
                        return ""
                    file.write(tensor_bytes(piece))
                self._count()
            return file.digest()

    def _count(self) -> None:
        with self._lock:
            self._done += 1
            self._progress(self._done, self._total)


def _shards(tensors: Mapping[Form, Mapping[str, _Stored]]) -> list[dict[str, _Stored]]:
    """Forms in order, none split between files of about `SHARD_BYTES`."""
    shards: list[dict[str, _Stored]] = [{}]
    held = 0
    for parts in tensors.values():
        size = sum(header_bytes(one.header) for one in parts.values())
        if shards[-1] and held + size > SHARD_BYTES:
            shards.append({})
            held = 0
        shards[-1] |= parts
        held += size
    return shards


def _tensors(
    checkpoint: Checkpoint, form: Form, sources: Mapping[str, WeightSource]
) -> dict[str, _Stored]:
    """The tensors of a form by key, with how their bytes come about."""
    joined = [sources[name] for name in form.weights]
    spec = weight_format(joined[0].format)
    shapes = packed_shapes(form, [WeightType(one.format, one.shape) for one in joined])
    tensors: dict[str, _Stored] = {}
    for number, (part, shape) in enumerate(zip(spec.components, shapes, strict=True)):
        pieces = partial(component_pieces, checkpoint, form, joined, number)
        header = Header(_DTYPES[part.dtype], shape)
        tensors[f"{form.key}/{part.name}"] = _Stored(header, part.torch_dtype, pieces)
    return tensors


@dataclass(frozen=True, slots=True)
class ReadWeights:
    """The weights of a plan on a device: every weight of the graph, and what kernels take packed."""

    weights: dict[str, Weight]
    packed: dict[Form, tuple[Tensor, ...]]


def read_weights(
    root: Path, graph: Graph, read: manifest.Manifest, device: torch.device
) -> ReadWeights:
    """Every weight of the graph on a device.

    Args:
        root: the plan folder, its files already verified.
        graph: says which weights there must be, with types.
        read: its manifest.
        device: where the components go.

    Raises:
        DsvError: DSV231 if manifest, files and graph do not agree.
    """
    reader = (
        _Reader(root, device, read)
        if read.synthetic is None
        else SyntheticReader.open(root, read.synthetic, device)
    )
    packed = {
        form: reader.tensors(form, [_type(root, graph, name) for name in form.weights], entry)
        for form, entry in ((packed_form(one), one.components) for one in read.packed)
    }
    weights: dict[str, Weight] = {}
    for name in graph.weights:
        type_ = _type(root, graph, name)
        entry = read.weights.get(name)
        if entry is None or (entry.format, tuple(entry.dims)) != (type_.format, type_.dims):
            raise _mismatch(root, name, str(type_), str(entry))
        form = next((form for form in packed if name in form.weights), None)
        if form is None or entry.components:
            weights[name] = Weight(type_, reader.tensors(Form((name,)), [type_], entry.components))
        else:
            types = [_type(root, graph, one) for one in form.weights]
            number = form.weights.index(name)
            unpack = partial(unpacked, form, types, packed[form], number)
            weights[name] = Weight(type_, unpack)
    return ReadWeights(weights, packed)


class _Reader:
    """The weight files of a plan."""

    def __init__(self, root: Path, device: torch.device, read: manifest.Manifest) -> None:
        from safetensors import safe_open

        self.root = root
        entries = [*read.weights.values(), *read.packed]
        files = {part.file for entry in entries for part in entry.components}
        self._files = {
            name: safe_open(inside(root, name), framework="pt", device=str(device))
            for name in sorted(files)
        }
        self._stored = {(name, key) for name, file in self._files.items() for key in file.keys()}  # noqa: SIM118

    def tensors(
        self, form: Form, types: Sequence[WeightType], parts: Sequence[manifest.Component]
    ) -> tuple[Tensor, ...]:
        """Stored components of a form, whose weights have these types."""
        spec = weight_format(types[0].format)
        if len(parts) != len(spec.components):
            raise _mismatch(self.root, form.key, ", ".join(spec.component_names), str(parts))
        shapes = packed_shapes(form, types)
        known = zip(parts, spec.components, shapes, strict=True)
        return tuple(self._tensor(part, one.torch_dtype, shape) for part, one, shape in known)

    def _tensor(self, part: manifest.Component, dtype: torch.dtype, shape: Shape) -> Tensor:
        if (part.file, part.tensor) not in self._stored:
            raise _mismatch(self.root, part.tensor, f"a tensor of {part.file}", "nothing")
        tensor: Tensor = self._files[part.file].get_tensor(part.tensor)
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            wanted = f"{list(shape)} of {dtype}"
            found = f"{list(tensor.shape)} {tensor.dtype}"
            raise _mismatch(self.root, part.tensor, wanted, found)
        return tensor


def _type(root: Path, graph: Graph, name: str) -> WeightType:
    type_ = graph.types.get(name)
    if not isinstance(type_, WeightType):
        raise _mismatch(root, name, "a weight of the graph", str(type_))
    return type_


def _mismatch(root: Path, name: str, expected: str, found: str) -> DsvError:
    return DsvError(
        "DSV231",
        "a weight of the plan does not fit its graph",
        where=f"{root}, weight {name}",
        expected=expected,
        found=found,
        hint="compile the plan again",
    )
