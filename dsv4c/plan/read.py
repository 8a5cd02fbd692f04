"""Reading a plan folder without torch: manifest, graph, and whether they agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsv4c.errors import DsvError
from dsv4c.ir.graph import Graph
from dsv4c.ir.lifetimes import arena_problems, arena_size
from dsv4c.ir.text import parse
from dsv4c.ir.types import CacheType, RowsType
from dsv4c.plan import manifest
from dsv4c.plan.files import MANIFEST, inside, read_manifest, verify_files


@dataclass(frozen=True, slots=True)
class PlanFiles:
    """What a plan folder says.

    Attributes:
        manifest: its manifest.
        graph: stage `planned`, as the compiler verified it.
        unchecked: files whose hashes were not compared yet, with the recorded ones.
    """

    manifest: manifest.Manifest
    graph: Graph
    unchecked: dict[str, str]


def read_plan(path: Path, check_weights: bool = True) -> PlanFiles:
    """Read a plan folder and compare its files with their recorded hashes.

    Args:
        path: the folder.
        check_weights: hash the weight files too.

    Raises:
        DsvError: DSV231 (missing, malformed), DSV232 (a file was changed), DSV233 (another version
            of the format), DSV221 (its graph cannot be read).
    """
    read = read_manifest(path, manifest.Manifest, manifest.SCHEMA)
    weights = {part.file for part in manifest.components(read)}
    later = {} if check_weights else {k: v for k, v in read.files.items() if k in weights}
    verify_files(path, {k: v for k, v in read.files.items() if k not in later})
    _require_hashes(path, read)
    last = [one.ir for one in read.passes if one.ir is not None]
    graph = parse(inside(path, last[-1]).read_text(encoding="utf-8"))
    if graph.stage != "planned":
        raise _disagree(path, "stage")
    for part, agree in (
        ("schedule", read.schedule == schedule_of(graph)),
        ("arena", not any(arena_problems(graph)) and read.arena == arena_of(graph)),
        ("states", read.states == states_of(graph)),
        ("weights", list(read.weights) == graph.weights),
    ):
        if not agree:
            raise _disagree(path, part)
    return PlanFiles(read, graph, later)


def _disagree(path: Path, part: str) -> DsvError:
    return DsvError(
        "DSV231",
        f"the plan's {part} and its graph disagree",
        where=str(path),
        hint="compile the plan again",
    )


def schedule_of(graph: Graph) -> list[manifest.Step]:
    """The manifest's schedule of a planned graph."""
    return [
        manifest.Step(node.name, node.kind, node.impl, node.origin.layer, list(node.offsets))
        for node in graph.nodes
    ]


def arena_of(graph: Graph) -> manifest.Arena:
    """The manifest's sizes of a planned graph's arena."""
    size = arena_size(graph)
    return manifest.Arena(dict(graph.step), size.arena, size.zeroed, size.live)


def states_of(graph: Graph) -> list[manifest.State]:
    """The manifest's geometry of a graph's states."""
    states: list[manifest.State] = []
    for name in graph.states:
        type_ = graph.types[name]
        assert isinstance(type_, CacheType | RowsType)
        slot, page = type_.nbytes({"S": 1, "N": 0}), type_.nbytes({"S": 0, "N": 1})
        states.append(manifest.State(name, str(type_), slot, page))
    return states


def _require_hashes(path: Path, read: manifest.Manifest) -> None:
    """Raise DsvError DSV231 unless every file that the manifest names was hashed."""
    named = {one.ir for one in read.passes} | {read.library}
    named |= {part.file for part in manifest.components(read)}
    named -= {None} if read.synthetic is None else {None, manifest.NO_FILE}
    unknown = sorted(str(name) for name in named if name not in read.files)
    if unknown or not any(one.ir for one in read.passes):
        raise DsvError(
            "DSV231",
            "the manifest names no graph, or a file without its hash",
            where=str(path / MANIFEST),
            found=", ".join(unknown),
            hint="compile the plan again",
        )
