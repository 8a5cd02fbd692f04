"""Runs a planned graph step by step: a kernel where the plan names one, else the op's reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from dsv4c.codegen.kernel import PackedOperand
from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.interp import run_node
from dsv4c.ir.types import RowsType, TensorType, evaluate
from dsv4c.ir.values import TORCH_DTYPES, Operand, State, Weight

REFERENCE = "reference"
Kernel = Callable[..., None]
Packed = tuple[PackedOperand, Sequence[torch.Tensor]]
"""Operands that a kernel takes packed, with the packed components."""


class Watcher(Protocol):
    """Looks at each node of a step, for checks and inspection."""

    def before(self, node: Node, operands: Sequence[Operand]) -> None:
        """The operands, before a state among them is overwritten."""
        ...

    def after(self, node: Node, results: Sequence[Operand]) -> None: ...


def step_sizes(inputs: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """The run-time numbers of a step: T tokens, R rows of logits, S slots, P pages each."""
    slots, pages = inputs["block_table"].shape
    return {"T": len(inputs["ids"]), "R": len(inputs["out_rows"]), "S": slots, "P": pages}


def kernel_arguments(operands: Sequence[Operand], packed: Sequence[Packed]) -> list[torch.Tensor]:
    """What a kernel is given for operands: components of weights, buffers of states.

    Args:
        operands: of its node.
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
            value = operand.buffer if isinstance(operand, State) else operand
            arguments.append(value.contiguous())
    return arguments


class Executor:
    """A planned graph with its weights, states and kernels on one device.

    Args:
        graph: stage `planned`.
        weights: a value for each weight input.
        states: a buffer for each state input.
        kernels: the loaded function for each kernel that the graph names.
        packed: by node, operands that its kernel takes packed, with the packed components.

    Attributes:
        constants: weights and states, the graph's inputs beside those of a step.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Weight],
        states: Mapping[str, State],
        kernels: Mapping[str, Kernel],
        packed: Mapping[str, Sequence[Packed]] | None = None,
    ) -> None:
        self.graph, self.states, self._kernels = graph, dict(states), kernels
        self._packed = packed or {}
        self.constants: dict[str, Operand] = {**weights, **states}
        last = {value: i for i, node in enumerate(graph.nodes) for value in node.inputs}
        kept = {*graph.inputs, *graph.outputs}
        self._dead: list[list[str]] = [[] for _ in graph.nodes]
        for i, node in enumerate(graph.nodes):
            for value in node.outputs:
                if value not in kept:
                    self._dead[last.get(value, i)].append(value)

    def reset(self, slot: int) -> None:
        """Clear what a slot's former sequence left in partial rows and window rings."""
        for state in self.states.values():
            if isinstance(state.type, RowsType):
                state.buffer[slot, :, : state.type.width // 2] = 0
                state.buffer[slot, :, state.type.width // 2 :] = -torch.inf
            elif state.type.ring:
                pages = state.type.ring // state.type.layout.page
                state.buffer[slot * pages : (slot + 1) * pages] = 0

    def step(
        self, inputs: Mapping[str, torch.Tensor], watcher: Watcher | None = None
    ) -> torch.Tensor:
        """Run one step; the graph's first output, logits f32 [R, vocab].

        Args:
            inputs: every step input (see `models.deepseek_v4.build`).
            watcher: told about each node.
        """
        values: dict[str, Operand] = {**self.constants, **inputs}
        sizes = step_sizes(inputs)
        for node, dead in zip(self.graph.nodes, self._dead, strict=True):
            operands = [values[value] for value in node.inputs]
            if watcher is not None:
                watcher.before(node, operands)
            results = self.run(node, operands, sizes)
            values.update(zip(node.outputs, results, strict=True))
            if watcher is not None:
                watcher.after(node, results)
            for value in dead:
                del values[value]
        logits = values[self.graph.outputs[0]]
        assert isinstance(logits, torch.Tensor)
        return logits

    def run(
        self, node: Node, operands: Sequence[Operand], sizes: Mapping[str, int]
    ) -> tuple[Operand, ...]:
        """Results of one node; states among the operands are written in place.

        Args:
            node: of the graph.
            operands: on the executor's device.
            sizes: `step_sizes` of the step's inputs.
        """
        if node.impl == REFERENCE:
            return run_node(node, operands, self.graph.types)
        return self._launch(node, operands, sizes)

    def _launch(
        self, node: Node, operands: Sequence[Operand], sizes: Mapping[str, int]
    ) -> tuple[Operand, ...]:
        """Calling convention: operands (weights by component, states in place), then results."""
        arguments = kernel_arguments(operands, self._packed.get(node.name, ()))
        states = iter([operand for operand in operands if isinstance(operand, State)])
        results: list[Operand] = []
        for value in node.outputs:
            type_ = self.graph.types[value]
            if isinstance(type_, TensorType):
                shape = [evaluate(dim, sizes) for dim in type_.dims]
                made = torch.empty(
                    shape, dtype=TORCH_DTYPES[type_.dtype], device=arguments[0].device
                )
                results.append(made)
                arguments.append(made)
            else:
                results.append(next(states))
        self._kernels[node.impl](*arguments)
        return tuple(results)
