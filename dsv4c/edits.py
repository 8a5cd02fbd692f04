"""What a person changed: an IR file to compile from, sources of kernels to compile instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dsv4c.codegen.kernel import KernelSource
from dsv4c.errors import DsvError
from dsv4c.events import EventLog
from dsv4c.ir.graph import Graph
from dsv4c.ir.text import parse
from dsv4c.ir.types import CacheType, TensorType, WeightType
from dsv4c.ir.verify import verify
from dsv4c.models.deepseek_v4.build import STEP_INPUTS, BuildOptions
from dsv4c.plan.files import sha256
from dsv4c.plan.manifest import SourceIr

if TYPE_CHECKING:
    from dsv4c.models.deepseek_v4.names import WeightSource

REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class Edits:
    """Files that take the place of what the compiler would make.

    Attributes:
        ir: a graph at any stage; the passes after that stage run.
        kernels: a folder with NAME/source.py or NAME.py, as a plan's `kernels`.
    """

    ir: Path | None = None
    kernels: Path | None = None


def read_ir(path: Path, weights: Mapping[str, WeightSource], target: str) -> Graph:
    """The graph of an IR file, which must fit the checkpoint.

    Args:
        path: the file.
        weights: what the checkpoint has.
        target: what the graph is compiled for.

    Raises:
        DsvError: DSV101 (no file), DSV221 (text), DSV222 (graph, step inputs), DSV212 (weights),
            DSV303 (kernels on `cpu`).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DsvError(
            "DSV101", "the IR file cannot be read", where=str(path), found=str(error)
        ) from error
    try:
        graph = parse(text)
        verify(graph)
    except DsvError as error:
        fields = {**error.fields(), "where": f"{path}, {error.where}"}
        raise DsvError(error.code, error.what, **fields) from None
    for name in graph.inputs:
        _check_input(name, graph, weights, path)
    kernels = [node for node in graph.nodes if node.impl not in ("", REFERENCE)]
    if target == "cpu" and kernels:
        raise DsvError(
            "DSV303",
            "there are no kernels on cpu",
            where=f"{path}, %{kernels[0].name}",
            expected="! reference",
            found=f"! {kernels[0].impl}",
            hint="start from a file of stage fused, or compile for the GPU",
        )
    return graph


def _check_input(name: str, graph: Graph, weights: Mapping[str, WeightSource], path: Path) -> None:
    type_ = graph.types[name]
    if isinstance(type_, TensorType) and name not in STEP_INPUTS:
        raise DsvError(
            "DSV222",
            "the graph has an input that no session gives",
            where=f"{path}, %{name}",
            expected=", ".join(STEP_INPUTS),
        )
    if not isinstance(type_, WeightType):
        return
    source = weights.get(name)
    found = str(WeightType(source.format, tuple(source.shape))) if source is not None else "nothing"
    if found != str(type_):
        raise DsvError(
            "DSV212",
            "the IR file and the checkpoint disagree on a weight",
            where=f"{path}, %{name}",
            expected=str(type_),
            found=found,
        )


def mark(edits: Edits, graph: Graph, log: EventLog) -> SourceIr | None:
    """What the manifest keeps of the IR file that a graph was read from."""
    if edits.ir is None:
        return None
    found = SourceIr(edits.ir.name, sha256(edits.ir), graph.stage)
    log.event("source_ir", file=found.file, sha256=found.sha256, stage=found.stage)
    return found


def options_of(graph: Graph, options: BuildOptions, window: int) -> BuildOptions:
    """The options that a graph was built with, read off its types.

    Args:
        graph: from an IR file.
        options: what holds where the graph does not say.
        window: tokens of the sliding window, which limits the chunk of a shorter ring.
    """
    rings = [t for t in graph.types.values() if isinstance(t, CacheType) and t.ring]
    parts = [(graph, node) for node in graph.nodes]
    parts += [(node.body, one) for node in graph.nodes if node.body for one in node.body.nodes]
    embedded = [held.types[node.name] for held, node in parts if node.op == "embed"]
    for type_ in embedded[:1]:
        assert isinstance(type_, TensorType)
        options = replace(options, dtype=type_.dtype)
    if not rings:
        return options
    chunk = min(options.chunk, *(ring.ring - window + 1 for ring in rings))
    return replace(options, kv_cache=rings[0].layout.format, chunk=chunk)


def edited_sources(sources: Mapping[str, KernelSource], folder: Path) -> dict[str, KernelSource]:
    """The kernels of `folder` whose body is not what the template gives, by name.

    Raises:
        DsvError: DSV101 if the folder has none of the kernels.
    """
    files = {
        name: path
        for name in sources
        for path in (folder / f"{name}.py", folder / name / "source.py")
        if path.is_file()
    }
    if not files:
        raise DsvError(
            "DSV101",
            "there is no source of a kernel that this plan has",
            where=str(folder),
            expected=f"NAME.py or NAME/source.py, NAME one of {', '.join(sources) or '(none)'}",
        )
    texts = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    return {
        name: replace(sources[name], header="", body=text)
        for name, text in texts.items()
        if _without_header(text) != _without_header(sources[name].body)
    }


def _without_header(text: str) -> str:
    """A source without the comments before its first line: they tell users, which may change."""
    lines = text.splitlines(keepends=True)
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(lines[first:])
