"""Construction of graphs: names, inferred types and provenance in one place."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from dsv4c.ir import ops as _ops
from dsv4c.ir.graph import Attr, Graph, Node, Origin
from dsv4c.ir.op import OPS, infer
from dsv4c.ir.types import CacheType, RowsType, Type, WeightType

assert _ops.__all__, "importing the package declares the ops"


class GraphBuilder:
    """Collects inputs and nodes. Values are named `PREFIX.NAME`, made unique by a number.

    Args:
        name: the graph's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._types: dict[str, Type] = {}
        self._steps: list[str] = []
        self._weights: list[str] = []
        self._states: dict[str, str] = {}
        self._sources: dict[str, tuple[str, ...]] = {}
        self._nodes: list[Node] = []
        self._layer: int | None = None
        self._prefix = ""

    @contextmanager
    def scope(self, prefix: str, layer: int | None = None) -> Generator[None]:
        """Name and attribute what is built inside."""
        saved = self._prefix, self._layer
        self._prefix = f"{saved[0]}{prefix}."
        self._layer = layer if layer is not None else saved[1]
        yield
        self._prefix, self._layer = saved

    def step_input(self, name: str, type_: Type) -> str:
        self._steps.append(name)
        self._types[name] = type_
        return name

    def weight(self, name: str, type_: WeightType, sources: Iterable[str]) -> str:
        """A weight input, once; `sources` are the checkpoint tensors that it stands for."""
        if name not in self._types:
            self._weights.append(name)
            self._types[name] = type_
            self._sources[name] = compress_names(sources)
        return name

    def state(self, name: str, type_: CacheType | RowsType) -> str:
        """A state input; `add` moves its current version forward."""
        name = self._prefix + name
        self._states[name] = name
        self._types[name] = type_
        return name

    def current(self, state: str) -> str:
        """The latest version of a state."""
        return self._states[state]

    def add(self, op: str, name: str, *inputs: str, **attrs: Attr) -> str:
        """A node with one tensor result (and new versions of its states); the result's name."""
        result = self.add_many(op, (name,), *inputs, **attrs)
        return result[0]

    def write(self, op: str, *inputs: str, **attrs: Attr) -> str:
        """A node whose only result is the next version of the state among its inputs."""
        return self.add_many(op, (), *inputs, **attrs)[0]

    def add_many(
        self, op: str, names: tuple[str, ...], *inputs: str, **attrs: Attr
    ) -> tuple[str, ...]:
        """A node with several results. State operands are given by their first version's name."""
        operands = tuple(self._states.get(value, value) for value in inputs)
        types = infer(op, [self._types[value] for value in operands], attrs)
        written = iter([value for value in inputs if value in self._states])
        tensors = iter(names)
        outputs: list[str] = []
        for arg, type_ in zip(OPS[op].results, types, strict=True):
            if arg.role in ("cache", "rows"):
                state = next(written)
                output = self._unique(state)
                self._states[state] = output
            else:
                output = self._unique(self._prefix + next(tensors))
            self._types[output] = type_
            outputs.append(output)
        tensors_of = [self._sources[value] for value in operands if value in self._sources]
        origin = Origin(self._layer, tuple(name for part in tensors_of for name in part))
        self._nodes.append(Node(op, operands, tuple(outputs), attrs, origin))
        return tuple(outputs)

    def finish(self, *outputs: str) -> Graph:
        """The graph: `outputs`, then the last version of every state."""
        last = [version for state, version in self._states.items() if version != state]
        return Graph(
            self.name,
            "model",
            (*self._steps, *self._weights, *self._states),
            tuple(self._nodes),
            (*outputs, *last),
            self._types,
            self._sources,
        )

    def _unique(self, name: str) -> str:
        found, number = name, 1
        while found in self._types:
            found, number = f"{name}.{number}", number + 1
        return found


def compress_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names that differ in one number only become one: `experts.{0..255}.w1.weight`.

    >>> compress_names(["e.0.w", "e.1.w", "e.2.w", "x"])
    ('e.{0..2}.w', 'x')
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for name in names:
        match = re.fullmatch(r"(.*\bexperts\.|e\.)(\d+)(\..*)", name)
        key = (match[1], match[3]) if match else (name, "")
        groups.setdefault(key, []).extend([int(match[2])] if match else [])
    found: list[str] = []
    for (head, tail), numbers in groups.items():
        whole = numbers == list(range(len(numbers))) and len(numbers) > 1
        if whole:
            found.append(f"{head}{{0..{len(numbers) - 1}}}{tail}")
        else:
            found += [f"{head}{number}{tail}" for number in numbers] or [head]
    return tuple(found)
