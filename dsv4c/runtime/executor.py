"""Runs a planned graph step by step: a kernel where the plan names one, else the op's reference.

Everything that a step needs is allocated once: the arena that results lie in, zeroed scratch, the
step's inputs. A step of known sizes only calls functions on views of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch

from dsv4c.codegen.kernel import PackedOperand
from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.interp import run_node
from dsv4c.ir.lifetimes import arena_size
from dsv4c.ir.types import CacheType, RowsType, TensorType, evaluate
from dsv4c.ir.values import TORCH_DTYPES, Operand, State, Weight
from dsv4c.runtime.batch import Sizes, StepInputs

REFERENCE = "reference"
Kernel = Callable[..., None]
Packed = tuple[PackedOperand, Sequence[torch.Tensor]]
"""Operands that a kernel takes packed, with the packed components."""
_KEPT_SIZES = 16


class Watcher(Protocol):
    """Looks at each node of a step, for checks and inspection.

    What it is shown lies in the arena: it holds until the next node runs.
    """

    def before(self, node: Node, operands: Sequence[Operand]) -> None:
        """The operands, before a state among them is overwritten."""
        ...

    def after(self, node: Node, results: Sequence[Operand]) -> None: ...


class Outputs(NamedTuple):
    """What a step makes beside states, in the arena: it holds until the next step.

    Attributes:
        logits: f32 [R, vocab].
        ids: the token drawn from each row, i32 [R].
    """

    logits: torch.Tensor
    ids: torch.Tensor


def step_sizes(inputs: Mapping[str, torch.Tensor]) -> Sizes:
    """The sizes of a step with these inputs."""
    slots, pages = inputs["block_table"].shape
    return Sizes(len(inputs["ids"]), len(inputs["out_rows"]), slots, pages)


def copied_tensors(results: Sequence[Operand]) -> tuple[Operand, ...]:
    """Results that hold when later nodes run; states as they are."""
    return tuple(one.clone() if isinstance(one, torch.Tensor) else one for one in results)


def kernel_arguments(operands: Sequence[Operand], packed: Sequence[Packed]) -> list[torch.Tensor]:
    """What a kernel is given for operands: components of weights, buffers of states.

    Args:
        operands: of its node, contiguous.
        packed: operands that it takes packed, which stand at the place of the first of them.
    """
    arguments: list[torch.Tensor] = []
    joined = {i for one, _ in packed for i in one.inputs}
    heads = {one.inputs[0]: components for one, components in packed}
    for i, operand in enumerate(operands):
        if i in joined:
            arguments += heads.get(i, ())
        elif isinstance(operand, Weight):
            arguments += operand.components
        else:
            arguments.append(operand.buffer if isinstance(operand, State) else operand)
    return arguments


class Executor:
    """A planned graph with its weights, states, kernels and memory on one device.

    Args:
        graph: stage `planned`, laid out for the largest step of the session.
        weights: a value for each weight input.
        states: a buffer for each state input.
        kernels: the loaded function for each kernel that the graph names.
        device: where all of them are.
        packed: by node, operands that its kernel takes packed, with the packed components.

    Attributes:
        constants: weights and states, the graph's inputs beside those of a step.
        inputs: where the inputs of a step lie.
        arena: memory of all results, u8.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Weight],
        states: Mapping[str, State],
        kernels: Mapping[str, Kernel],
        device: torch.device,
        packed: Mapping[str, Sequence[Packed]] | None = None,
    ) -> None:
        self.graph, self.states, self._kernels = graph, dict(states), kernels
        self._packed = packed or {}
        self.constants: dict[str, Operand] = {**weights, **states}
        size = arena_size(graph)
        self.arena = torch.empty(size.arena, dtype=torch.uint8, device=device)
        self._zeroed = torch.zeros(size.zeroed, dtype=torch.uint8, device=device)
        self.most = Sizes(*(graph.step[name] for name in Sizes._fields))
        self.inputs = StepInputs(self.most, device)
        self._bound: OrderedDict[Sizes, _Bound] = OrderedDict()

    def reset(self, slot: int) -> None:
        """Clear what a slot's former sequence left in partial rows and window rings."""
        for state in self.states.values():
            if isinstance(state.type, RowsType):
                state.buffer[slot, :, : state.type.width // 2] = 0
                state.buffer[slot, :, state.type.width // 2 :] = -torch.inf
            elif state.type.ring:
                pages = state.type.ring // state.type.layout.page
                state.buffer[slot * pages : (slot + 1) * pages] = 0

    def poison(self, byte: int) -> None:
        """Fill the arena and the null page of every cache: nothing may depend on them."""
        self.arena.fill_(byte)
        for state in self.states.values():
            if isinstance(state.type, CacheType) and not state.type.ring:
                state.buffer[:1].view(torch.uint8).fill_(byte)

    def bind(self, sizes: Sizes) -> Mapping[str, torch.Tensor]:
        """The step inputs of these sizes, copied from the host; views of all results are kept."""
        bound = self._views(sizes)
        host, device = bound.copies
        device.copy_(host, non_blocking=True)
        return bound.inputs

    def step(self, inputs: Mapping[str, torch.Tensor], watcher: Watcher | None = None) -> Outputs:
        """Run one step.

        Args:
            inputs: every step input (see `models.deepseek_v4.build`).
            watcher: told about each node.
        """
        values: dict[str, Operand] = {**self.constants, **inputs}
        sizes = step_sizes(inputs)
        for node in self.graph.nodes:
            operands = [values[value] for value in node.inputs]
            if watcher is not None:
                watcher.before(node, operands)
            results = self.run(node, operands, sizes)
            values.update(zip(node.outputs, results, strict=True))
            if watcher is not None:
                watcher.after(node, results)
        logits, ids = (values[name] for name in self.graph.outputs[:2])
        assert isinstance(logits, torch.Tensor)
        assert isinstance(ids, torch.Tensor)
        return Outputs(logits, ids)

    def run(self, node: Node, operands: Sequence[Operand], sizes: Sizes) -> tuple[Operand, ...]:
        """Results of one node, in the arena; states among the operands are written in place.

        Args:
            node: of the graph.
            operands: on the executor's device.
            sizes: of the step.
        """
        bound = self._views(sizes)
        if node.op == "view":
            return (bound.viewed(node, operands[0]),)
        states = iter([operand for operand in operands if isinstance(operand, State)])
        views = bound.results[node.name]
        results = tuple(next(states) if view is None else view for view in views)
        if node.impl != REFERENCE:
            self._kernels[node.impl](*self.arguments(node, operands, sizes))
            return results
        found = run_node(node, operands, self.graph.types)
        for view, value in zip(views, found, strict=True):
            if view is not None:
                assert isinstance(value, torch.Tensor)
                view.copy_(value)
        return results

    def arguments(
        self, node: Node, operands: Sequence[Operand], sizes: Sizes
    ) -> list[torch.Tensor]:
        """What a node's kernel is given: operands as it takes them, results, scratch."""
        bound = self._views(sizes)
        given = kernel_arguments(operands, self._packed.get(node.name, ()))
        made = (view for view in bound.results[node.name] if view is not None)
        return [*given, *made, *bound.scratch[node.name]]

    def _views(self, sizes: Sizes) -> _Bound:
        found = self._bound.get(sizes)
        if found is None:
            memory = self.arena, self._zeroed, self.inputs
            found = self._bound[sizes] = _Bound(self.graph, sizes, *memory)
            if len(self._bound) > _KEPT_SIZES:
                self._bound.popitem(last=False)
        return found


class _Bound:
    """Views of the memory for a step of certain sizes.

    Attributes:
        inputs: the step inputs.
        copies: what of the host's inputs is copied, and to where.
        results: by node, a view for each result that is a tensor, else None.
        scratch: by node, a view of each scratch.
    """

    def __init__(
        self,
        graph: Graph,
        sizes: Sizes,
        arena: torch.Tensor,
        zeroed: torch.Tensor,
        inputs: StepInputs,
    ) -> None:
        self.inputs, self.copies = inputs.views(sizes), inputs.copies(sizes)
        self.results: dict[str, list[torch.Tensor | None]] = {}
        self.scratch: dict[str, list[torch.Tensor]] = {}
        self._known: dict[str, torch.Tensor] = dict(self.inputs)
        env = sizes.env
        for node in graph.nodes:
            views: list[torch.Tensor | None] = []
            for value, offset in zip(node.outputs, node.offsets, strict=False):
                type_ = graph.types[value]
                view = None
                if isinstance(type_, TensorType):
                    shape = [evaluate(dim, env) for dim in type_.dims]
                    if node.op == "view" and node.inputs[0] in self._known:
                        view = self._known[node.inputs[0]].view(shape)
                    else:
                        view = _view(arena, offset, type_, env)
                    self._known[value] = view
                views.append(view)
            self.results[node.name] = views
            self.scratch[node.name] = [
                _view(zeroed if one.zeroed else arena, offset, one.type, env)
                for one, offset in zip(node.scratch, node.offsets[len(node.outputs) :], strict=True)
            ]

    def viewed(self, node: Node, operand: Operand) -> torch.Tensor:
        """The result of a view: made already if its operand lies where it was planned."""
        (made,) = self.results[node.name]
        assert made is not None
        assert isinstance(operand, torch.Tensor)
        return made if operand is self._known.get(node.inputs[0]) else operand.reshape(made.shape)


def _view(
    memory: torch.Tensor, offset: int, type_: TensorType, env: Mapping[str, int]
) -> torch.Tensor:
    shape = [evaluate(dim, env) for dim in type_.dims]
    size = type_.nbytes(env)
    return memory[offset : offset + size].view(TORCH_DTYPES[type_.dtype]).view(shape)
