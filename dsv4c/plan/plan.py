"""A loaded plan: manifest, graph, and on demand its weights, kernels and sessions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch

from dsv4c.errors import DsvError
from dsv4c.ir.graph import Graph
from dsv4c.ir.text import parse
from dsv4c.ir.types import CacheType, RowsType
from dsv4c.ir.values import State, Weight
from dsv4c.ir.verify import verify
from dsv4c.plan import manifest
from dsv4c.plan.files import MANIFEST, inside, verify_files
from dsv4c.plan.weights import read_weights
from dsv4c.runtime.executor import REFERENCE, Executor
from dsv4c.runtime.kernels import Kernel, KernelLibrary
from dsv4c.runtime.memory import check_memory, session_bytes

if TYPE_CHECKING:
    from dsv4c.runtime.session import Session

_CAPABILITIES = {"sm_90a": (9, 0), "sm_100a": (10, 0)}


class Plan:
    """A plan folder whose files were verified.

    Attributes:
        path: the folder.
        manifest: its manifest.
        graph: the graph at stage `planned`.
        target: `cpu`, `sm_90a` or `sm_100a`.
    """

    def __init__(self, path: Path, manifest_: manifest.Manifest, graph: Graph) -> None:
        self.path, self.manifest, self.graph = path, manifest_, graph
        self.target = manifest_.target
        self._weights: dict[str, Weight] = {}
        self._unchecked: dict[str, str] = {}
        self._kernels: Mapping[str, Kernel] | None = None

    @classmethod
    def load(cls, path: Path, check_weights: bool = True) -> Plan:
        """Read and check a plan folder; no native code is opened.

        Args:
            path: the folder.
            check_weights: hash the weight files now, not when they are first read.

        Raises:
            DsvError: DSV231 (missing, malformed), DSV232 (a file was changed), DSV233 (another
                version of the format), DSV221, DSV222 (its graph is invalid).
        """
        if not (path / MANIFEST).is_file():
            raise DsvError(
                "DSV231",
                "there is no plan here",
                where=str(path),
                expected=f"a folder with {MANIFEST}",
                found="a folder without it" if path.is_dir() else "no folder",
                hint="dsv4c compile MODEL -o PLAN makes one",
            )
        read = _decode(inside(path, MANIFEST))
        weights = {part.file for weight in read.weights.values() for part in weight.components}
        later = {} if check_weights else {k: v for k, v in read.files.items() if k in weights}
        verify_files(path, {k: v for k, v in read.files.items() if k not in later})
        _require_hashes(path, read)
        last = [one.ir for one in read.passes if one.ir is not None]
        graph = parse(inside(path, last[-1]).read_text(encoding="utf-8"))
        verify(graph)
        for part, agree in (
            ("stage", graph.stage == "planned"),
            ("schedule", read.schedule == schedule_of(graph)),
            ("states", read.states == states_of(graph)),
            ("weights", list(read.weights) == graph.weights),
        ):
            if not agree:
                raise DsvError(
                    "DSV231",
                    f"the plan's {part} and its graph disagree",
                    where=str(path),
                    hint="compile the plan again",
                )
        plan = cls(path, read, graph)
        plan._unchecked = later
        return plan

    @property
    def reference_nodes(self) -> int:
        """Nodes that run by their torch reference instead of a kernel."""
        return sum(node.impl == REFERENCE for node in self.graph.nodes)

    def device(self) -> torch.device:
        """Where the plan runs. Raises DsvError DSV601 (no GPU) or DSV233 (another GPU)."""
        if self.target == "cpu":
            return torch.device("cpu")
        if not torch.cuda.is_available():
            raise DsvError(
                "DSV601",
                "the plan needs a GPU and there is none",
                where=str(self.path),
                expected=f"a GPU of {self.target}",
                hint="compile with --target cpu to run here",
            )
        found = torch.cuda.get_device_capability()
        if found != _CAPABILITIES[self.target]:
            raise DsvError(
                "DSV233",
                "the plan was made for another GPU",
                where=str(self.path),
                expected=f"{self.target}, compute capability {_CAPABILITIES[self.target]}",
                found=f"{torch.cuda.get_device_name()}, {found}",
                hint="compile the model again for this GPU",
            )
        return torch.device("cuda", torch.cuda.current_device())

    def weights(self) -> dict[str, Weight]:
        """The weights on the plan's device, read once and shared by its sessions."""
        if not self._weights:
            verify_files(self.path, self._unchecked)
            entries = self.manifest.weights
            self._weights = read_weights(self.path, self.graph, entries, self.device())
        return self._weights

    def kernels(self) -> Mapping[str, Kernel]:
        """The loaded kernels by name. Raises DsvError DSV604."""
        if self.manifest.library is None:
            return {}
        if self._kernels is None:
            names = [kernel.name for kernel in self.manifest.kernels]
            library = KernelLibrary(inside(self.path, self.manifest.library), names)
            self._kernels = {name: library[name] for name in names}
        return self._kernels

    def executor(self, slots: int, pages: int) -> Executor:
        """The graph with its weights, kernels and fresh states.

        Args:
            slots: sequences.
            pages: logical pages of 128 tokens.

        Raises:
            DsvError: DSV602 if they do not fit the memory.
        """
        device = self.device()
        needed = session_bytes(self.graph, slots, pages, self.manifest.options.chunk)
        if self._weights:
            needed |= {"weights": 0}
        check_memory(needed, device)
        env = {"S": slots, "N": pages}
        states: dict[str, State] = {}
        for name in self.graph.states:
            type_ = self.graph.types[name]
            assert isinstance(type_, CacheType | RowsType)
            states[name] = State.allocate(type_, env, device)
        return Executor(self.graph, self.weights(), states, self.kernels())

    def session(self, max_sequences: int = 8, max_tokens: int = 2048) -> Session:
        """A session with room for `max_sequences` sequences of `max_tokens` tokens each.

        Raises:
            DsvError: see `dsv4c.runtime.session.Session`.
        """
        from dsv4c.runtime.session import Session

        return Session(self, max_sequences, max_tokens)


def load_plan(path: str | Path) -> Plan:
    """Read a plan folder and check every file against its recorded hash.

    No native code is opened before a session is made. Raises DsvError DSV231, DSV232, DSV233.
    """
    return Plan.load(Path(path))


def schedule_of(graph: Graph) -> list[manifest.Step]:
    """The manifest's schedule of a planned graph."""
    return [
        manifest.Step(node.name, node.kind, node.impl, node.origin.layer, list(node.buffers))
        for node in graph.nodes
    ]


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
    named |= {part.file for weight in read.weights.values() for part in weight.components}
    named -= {None}
    unknown = sorted(str(name) for name in named if name not in read.files)
    if unknown or not any(one.ir for one in read.passes):
        raise DsvError(
            "DSV231",
            "the manifest names no graph, or a file without its hash",
            where=str(path / MANIFEST),
            found=", ".join(unknown),
            hint="compile the plan again",
        )


def _decode(path: Path) -> manifest.Manifest:
    text = path.read_bytes()
    try:
        head = msgspec.json.decode(text, type=dict[str, object])
        schema = head.get("schema")
        if schema != manifest.SCHEMA:
            raise DsvError(
                "DSV233",
                "the plan was made by another version of dsv4c",
                where=str(path),
                expected=f"schema {manifest.SCHEMA}",
                found=str(schema),
                hint="compile the model again",
            )
        return msgspec.json.decode(text, type=manifest.Manifest)
    except msgspec.MsgspecError as error:
        raise DsvError(
            "DSV231",
            "the plan's manifest cannot be read",
            where=str(path),
            found=str(error),
            hint="compile the model again",
        ) from error
