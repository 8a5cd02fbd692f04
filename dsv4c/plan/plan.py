"""A loaded plan: manifest, graph, and on demand its weights, kernels and sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch

from dsv4c.errors import DsvError
from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.types import CacheType, RowsType
from dsv4c.ir.values import State, Weight
from dsv4c.ir.verify import verify
from dsv4c.passes.assign_buffers import AssignBuffers
from dsv4c.plan import manifest
from dsv4c.plan.files import inside, verify_files
from dsv4c.plan.forms import form_of, packed_operands, stored_bytes
from dsv4c.plan.read import arena_of as arena_of
from dsv4c.plan.read import read_plan
from dsv4c.plan.read import schedule_of as schedule_of
from dsv4c.plan.read import states_of as states_of
from dsv4c.plan.weights import ReadWeights, read_weights
from dsv4c.runtime.batch import Sizes
from dsv4c.runtime.executor import REFERENCE, Executor, Packed
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
        self._weights: ReadWeights | None = None
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
        files = read_plan(path, check_weights)
        verify(files.graph)
        plan = cls(path, files.manifest, files.graph)
        plan._unchecked = files.unchecked
        return plan

    @property
    def reference_nodes(self) -> int:
        """Nodes that run by their torch reference instead of a kernel."""
        return sum(node.by_reference for node in self.graph.nodes)

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
        return self._read_weights().weights

    def _read_weights(self) -> ReadWeights:
        if self._weights is None:
            verify_files(self.path, self._unchecked)
            self._weights = read_weights(self.path, self.graph, self.manifest, self.device())
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

    def executor(self, most: Sizes, pages: int) -> Executor:
        """The graph with its weights, kernels, fresh states and an arena of its own.

        Args:
            most: the largest step.
            pages: logical pages of 128 tokens.

        Raises:
            DsvError: DSV602 if they do not fit the memory.
        """
        device = self.device()
        graph = AssignBuffers(most.env).run(self.graph).graph
        needed = session_bytes(graph, pages)
        needed |= {"weights": 0 if self._weights else stored_bytes(self.manifest)}
        check_memory(needed, device)
        env = {"S": most.S, "N": pages}
        states: dict[str, State] = {}
        for name in graph.states:
            type_ = graph.types[name]
            assert isinstance(type_, CacheType | RowsType)
            states[name] = State.allocate(type_, env, device)
        read = self._read_weights()
        forms = {node.name: self.packed(node) for node in graph.nodes}
        return Executor(graph, read.weights, states, self.kernels(), device, forms)

    def packed(self, node: Node) -> list[Packed]:
        """The operands that a node's kernel takes packed, with their components."""
        read = self._read_weights()
        operands = packed_operands(self.manifest.kernels).get(node.impl, ())
        return [(one, read.packed[form_of(node.inputs, one)]) for one in operands]

    def reference(self) -> Plan:
        """The same plan on the CPU, every node run by its reference."""
        nodes = (
            replace(node, impl=REFERENCE, scratch=(), offsets=node.offsets[: len(node.outputs)])
            for node in self.graph.nodes
        )
        read = msgspec.structs.replace(self.manifest, target="cpu", library=None)
        plan = Plan(self.path, read, self.graph.with_nodes(nodes))
        plan._unchecked = self._unchecked
        return plan

    def session(
        self,
        max_sequences: int = 8,
        max_tokens: int = 2048,
        poison: int | None = None,
        max_rows: int | None = None,
    ) -> Session:
        """A session with room for `max_sequences` sequences of `max_tokens` tokens each.

        Args:
            max_sequences: slots.
            max_tokens: context limit of one sequence.
            poison: for tests, see `dsv4c.runtime.session.Session`.
            max_rows: tokens of one step over several sequences.

        Raises:
            DsvError: see `dsv4c.runtime.session.Session`.
        """
        from dsv4c.runtime.session import Session

        return Session(self, max_sequences, max_tokens, poison, max_rows)


def load_plan(path: str | Path) -> Plan:
    """Read a plan folder and check every file against its recorded hash.

    No native code is opened before a session is made. Raises DsvError DSV231, DSV232, DSV233.
    """
    return Plan.load(Path(path))
