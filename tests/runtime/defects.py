"""Wrong kernels and wrong rules: each makes one node compute something else than it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from dsv4c.ir.graph import Attr, Graph, Node
from dsv4c.ir.interp import run_node
from dsv4c.ir.values import Operand, State, Weight
from dsv4c.runtime.batch import Sizes
from dsv4c.runtime.executor import Executor

Edit = Callable[[Node], Node]
Act = Callable[[Node, list[Operand], Callable[[Sequence[Operand]], Sequence[Operand]]], Sequence[Operand]]  # fmt: skip


@dataclass(frozen=True)
class Defect:
    """A defect of one node.

    Attributes:
        name: what is wrong.
        node: which node is.
        edit: the node as a wrong rule would make it.
        act: what a wrong kernel does; gets the node, its operands and the right kernel.
    """

    name: str
    node: str
    edit: Edit | None = None
    act: Act | None = None

    def plant(self, executor: Executor) -> None:
        """Replace the kernel of the node."""
        right = executor.run

        def run(node: Node, operands: Sequence[Operand], sizes: Sizes) -> object:
            if node.name != self.node:
                return right(node, operands, sizes)
            if self.edit is not None:
                edited, values = self.edit(node), dict(zip(node.inputs, operands, strict=True))
                inputs = [values[value] for value in edited.inputs]
                return run_node(edited, inputs, executor.graph.types)
            assert self.act is not None
            return tuple(self.act(node, list(operands), lambda args: right(node, args, sizes)))

        executor.run = run  # pyright: ignore[reportAttributeAccessIssue]

    def rewrite(self, graph: Graph) -> Graph:
        """The graph as a wrong rule would leave it."""
        assert self.edit is not None
        edit = self.edit
        nodes = (edit(node) if node.name == self.node else node for node in graph.nodes)
        return graph.with_nodes(nodes)


def attrs(name: str, node: str, op: str, **changed: Attr) -> Defect:
    """Another value of an attribute, of the node or inside its body."""

    def edit(one: Node) -> Node:
        if one.body is None:
            assert one.op == op
            return replace(one, attrs={**one.attrs, **changed})
        parts = [
            replace(part, attrs={**part.attrs, **changed}) if part.op == op else part
            for part in one.body.nodes
        ]
        assert any(part.op == op for part in one.body.nodes)
        return replace(one, body=replace(one.body, nodes=tuple(parts)))

    return Defect(name, node, edit=edit)


def swapped(name: str, node: str, first: int, second: int) -> Defect:
    """Two operands exchanged, of the node or of the part of its body that makes its result."""

    def edit(one: Node) -> Node:
        if one.body is not None:
            parts = [edit(part) if part.name == node else part for part in one.body.nodes]
            return replace(one, body=replace(one.body, nodes=tuple(parts)))
        inputs = list(one.inputs)
        inputs[first], inputs[second] = inputs[second], inputs[first]
        return replace(one, inputs=tuple(inputs))

    return Defect(name, node, edit=edit)


def operand(name: str, node: str, place: int, change: Callable[[torch.Tensor], torch.Tensor]) -> Defect:  # fmt: skip
    """An operand that the kernel reads wrongly; of a weight its first component."""

    def act(
        one: Node,
        operands: list[Operand],
        right: Callable[[Sequence[Operand]], Sequence[Operand]],
    ) -> Sequence[Operand]:
        value = operands[place]
        if isinstance(value, Weight):
            operands[place] = Weight(value.type, (change(value.components[0]),))
        else:
            assert isinstance(value, torch.Tensor)
            operands[place] = change(value)
        return right(operands)

    return Defect(name, node, act=act)


def result(name: str, node: str, place: int, change: Callable[[torch.Tensor], torch.Tensor]) -> Defect:  # fmt: skip
    """A result that comes out wrong; of a state its buffer."""

    def act(
        one: Node,
        operands: list[Operand],
        right: Callable[[Sequence[Operand]], Sequence[Operand]],
    ) -> Sequence[Operand]:
        results = list(right(operands))
        value = results[place]
        if isinstance(value, State):
            value.buffer.copy_(change(value.buffer))
        else:
            assert isinstance(value, torch.Tensor)
            results[place] = change(value)
        return results

    return Defect(name, node, act=act)


def stale(name: str, node: str) -> Defect:
    """A kernel that does not write its state."""

    def act(
        one: Node,
        operands: list[Operand],
        right: Callable[[Sequence[Operand]], Sequence[Operand]],
    ) -> Sequence[Operand]:
        copies = [value.clone() if isinstance(value, State) else value for value in operands]
        states = iter(value for value in operands if isinstance(value, State))
        return [next(states) if isinstance(one, State) else one for one in right(copies)]

    return Defect(name, node, act=act)


def _halves_swapped(angles: torch.Tensor) -> torch.Tensor:
    cos, sin = angles.chunk(2, -1)
    return torch.cat((sin, cos), -1)


def _last_dropped(chosen: torch.Tensor) -> torch.Tensor:
    chosen = chosen.clone()
    chosen[:, -1] = -1
    return chosen


def _first_dropped(index: torch.Tensor) -> torch.Tensor:
    """Rows of entries without the first."""
    return torch.cat((index[:, 1:], torch.full_like(index[:, :1], -1)), 1)


def _next_page(page: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Pages 1 and 2 exchanged: page 0 belongs to padding."""
    return lambda index: torch.where(index >= 0, index ^ 3 * page, index)


PLAIN = [
    attrs("attention scale 1.25 times", "L2.attn.o", "attention_scores", scale=1.25 * 80**-0.5),
    operand("RoPE with cos and sin swapped", "L1.attn.q", 3, _halves_swapped),
    attrs("RoPE turned the wrong way", "L3.attn.q", "rope", inverse=True),
    attrs("inverse RoPE not inverse", "L2.attn.z", "rope", inverse=False),
    result("window off by one", "L0.attn.angles", 2, _first_dropped),
    operand("window entry at the next position", "L0.attn.angles", 0, lambda pos: pos + 1),
    operand("mHC comb transposed", "L1.attn.streams", 3, lambda comb: comb.transpose(1, 2)),
    attrs("Sinkhorn stopped after one round", "L2.attn.streams", "mhc_coefficients", iters=1),
    attrs("routed SwiGLU without clamp", "L1.ffn.act", "routed_swiglu", limit=1e9),
    attrs("shared SwiGLU without clamp", "L3.ffn.act", "swiglu", limit=1e9),
    stale("partial rows not written", "L0.attn.q_latent"),
    stale("window cache not written", "L2.attn.q"),
    operand("entry written to another page", "L0.attn.q_latent", 18, _next_page(32)),
    operand("entries read from another page", "L3.attn.o", 4, _next_page(32)),
    operand("sink left out", "L2.attn.o", 3, lambda sink: torch.full_like(sink, -1e9)),
    operand("norm weight ignored", "L1.ffn.streams", 7, torch.ones_like),
    attrs("routed scaling left out", "L1.ffn.experts", "route_learned", scale=1.0),
    swapped("gate and up exchanged", "L1.ffn.act", 0, 1),
    result("top-k one short", "L0.attn.indexer.selected", 0, _last_dropped),
    operand("router bias ignored", "L2.ffn.experts", 2, torch.zeros_like),
    operand("position bias left out", "L1.attn.q_latent", 5, torch.zeros_like),
    attrs("compressor RoPE at the wrong end", "L0.attn.angles", "rope_angles", offset=0),
    operand("groups of wo_a reversed", "L0.attn.z", 2, lambda w: w.unflatten(0, (2, -1)).flip(0).flatten(0, 1)),
    operand("shared expert left out", "L2.ffn.y", 3, torch.zeros_like),
    result("linear 1.25 times, cosine 1", "L3.attn.q_b", 0, lambda y: 1.25 * y),
    operand("logits of the row before", "head.x", 4, lambda rows: (rows - 1).clamp_min(0)),
    attrs("epsilon of another model", "L2.attn.q", "rms_norm", eps=1e-2),
    operand("index scores see the future", "L3.attn.indexer.scores", 3, lambda pos: pos + 8),
    operand("experts one off", "L1.ffn.act", 3, lambda offsets: torch.cat((offsets[:1], offsets[:-1]))),
    result("accumulated in bf16", "L2.attn.y", 0, lambda y: y.bfloat16().float()),
]  # fmt: skip

FP8 = [
    operand("index query read one dim off", "L0.attn.q", 6, lambda q: q.roll(1, -1)),
    result("scale byte one too large", "L2.attn.q", 1, lambda pages: pages + (torch.arange(pages.shape[1]) >= 128 * (64 + 32)).to(torch.uint8) * (pages > 0)),
    result("nibbles exchanged", "L0.attn.q_latent", 4, lambda pages: torch.cat(((pages[:, : 32 * 16] << 4) | (pages[:, : 32 * 16] >> 4), pages[:, 32 * 16 :]), 1)),
]  # fmt: skip
