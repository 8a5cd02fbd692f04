"""How far a result may be from another: bounds from rounding alone, per element.

    |y - r| <= u_out * |r| + (4 * u_32 * sqrt(K) * n + u_inner) * m

where u are unit roundoffs, K the number of summed products, n the nodes in the body or the op's
declared dependent steps, and m bounds what was summed: the reference on absolute values for sums
of products, else the largest |r| of the row. A fused body rounds to bf16 inside where a kernel may
not: u_inner is 2 * u_bf16 for its bf16 results and what comes after a bf16 value inside, else 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.interp import run_graph
from dsv4c.ir.op import OPS, full_attrs
from dsv4c.ir.types import CacheType, RowsType, TensorType
from dsv4c.ir.values import CONTEXTS, Operand, State, Weight

ROUNDOFF = {"f32": 2.0**-24, "bf16": 2.0**-8, "f64": 2.0**-53}
_TIE = 1e-6
# The largest relative distance between neighbouring codes, for values that round either way.
_STEPS = {"fp8": 2.0**-3, "mxfp4": 2.0**-1, "bf16": 2.0**-7}
# Of a block's largest value, what MXFP4 moves by if rounding before it moves a value across the middle
# of two codes, or the largest across a power of two: half a step either way, with the larger scale.
_MXFP4_MOVE = 1 / 6
Magnitude = tuple[torch.Tensor | None, int]
"""What was summed, and how many terms; None for the largest magnitude of each row."""


def ratio(
    y: torch.Tensor,
    r: torch.Tensor,
    dtype: str,
    magnitude: torch.Tensor | None,
    terms: int,
    steps: int = 1,
    fused: bool = False,
) -> float:
    """Largest |y - r| / bound; infinite if the masks of NaN or of infinities differ.

    Args:
        y: the result.
        r: the reference, f64.
        dtype: what `y` is stored as.
        magnitude: what was summed; the largest |r| of each row if None.
        terms: K of the bound; 0 for the size of the last dim.
        steps: dependent roundings in fp32.
        fused: rounding to bf16 inside is allowed.
    """
    y, r = y.double(), r.double()
    special = ~r.isfinite()
    same = torch.equal(y.isnan(), r.isnan()) and torch.equal(
        y[special & ~r.isnan()], r[special & ~r.isnan()]
    )
    if not same or torch.any(~y.isfinite() & ~special):
        return math.inf
    if not r.numel():
        return 0.0
    bound = bound_of(r, dtype, magnitude, terms, steps, fused)
    return float(((y - r).abs() / bound)[~special].max()) if torch.any(~special) else 0.0


def bound_of(
    r: torch.Tensor,
    dtype: str,
    magnitude: torch.Tensor | None,
    terms: int,
    steps: int = 1,
    fused: bool = False,
) -> torch.Tensor:
    """The largest error allowed per element of `r`, f64; arguments as of `ratio`."""
    r = r.double()
    if magnitude is None:
        finite = r.abs().masked_fill(~r.isfinite(), 0)
        magnitude = finite.amax(-1, keepdim=True).expand_as(r) if r.numel() else finite
    inner = 4 * ROUNDOFF["f32"] * math.sqrt(terms or max(r.shape[-1], 1)) * steps
    inner += 2 * ROUNDOFF["bf16"] if fused else 0.0
    return ROUNDOFF[dtype] * r.abs() + inner * magnitude.double().nan_to_num(0, 0, 0) + 1e-30


class _Absolute(Weight):
    """A weight's absolute values."""

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        return super().dense(dtype).abs()

    def expert(self, number: int, dtype: torch.dtype) -> torch.Tensor:
        return super().expert(number, dtype).abs()


def magnitude_of(node: Node, value: str, operands: Sequence[Operand]) -> Magnitude:
    """What the node that makes `value` sums: its reference on absolute operands, and K."""
    if node.body is not None:
        part = node.body.producers[value]
        if part.op == "fake_quant":
            return _rounded_magnitude(node, part, operands), 1
        if not OPS[part.op].summed:
            return None, 0
        values = dict(zip(node.inputs, operands, strict=True))
        needed = tuple(one for one in part.inputs if one not in values)
        copies = {k: v.clone() if isinstance(v, State) else v for k, v in values.items()}
        above = Graph(
            "above", "model", node.inputs, _above(node.body, needed), needed, node.body.types
        )
        inner = {**values, **run_graph(above, copies, "exact")}
        made = [node.body.producers.get(one) for one in part.inputs]
        # What is summed may itself be sums, with rounding of their own.
        sums = {
            one: magnitude_of(node, one, operands)
            for one, maker in zip(part.inputs, made, strict=True)
            if maker is not None and OPS[maker.op].summed
        }
        sizes = {one: size for one, (size, _) in sums.items() if size is not None}
        found, terms = magnitude_of(part, value, [{**inner, **sizes}[one] for one in part.inputs])
        return found, max([terms, *(count for _, count in sums.values())])
    if not OPS[node.op].summed:
        return None, 0
    absolute = [_absolute(operand) for operand in operands]
    attrs = full_attrs(OPS[node.op], node.attrs)
    attrs.pop("dtype", None)
    made = OPS[node.op].reference(CONTEXTS["exact"], *absolute, **attrs)
    assert isinstance(made, torch.Tensor)
    return made, _terms(node, operands)


def _rounded_magnitude(node: Node, part: Node, operands: Sequence[Operand]) -> torch.Tensor:
    """So much that the bound of a fused body covers what MXFP4 makes of roundings before it."""
    assert node.body is not None
    above = Graph(
        "above",
        "model",
        node.inputs,
        _above(node.body, part.outputs),
        part.outputs,
        node.body.types,
    )
    values = dict(zip(node.inputs, operands, strict=True))
    copies = {k: v.clone() if isinstance(v, State) else v for k, v in values.items()}
    made = run_graph(above, copies, "exact")[part.name]
    assert isinstance(made, torch.Tensor)
    blocks = made.abs().unflatten(-1, (-1, int(str(full_attrs(OPS[part.op], part.attrs)["block"]))))
    moved = _STEPS["mxfp4"] * blocks + _MXFP4_MOVE * blocks.amax(-1, keepdim=True)
    return moved.flatten(-2) / (2 * ROUNDOFF["bf16"])


def _absolute(operand: Operand) -> Operand:
    """Absolute values; integers as they are, and so partial rows, which no sum of products reads."""
    if isinstance(operand, Weight):
        return _Absolute(operand.type, operand.stored)
    if isinstance(operand, State):
        if not isinstance(operand.type, CacheType):
            return operand
        layout = operand.type.layout
        entries = torch.arange(len(operand.buffer) * layout.page, device=operand.buffer.device)
        plain = replace(layout, format="f32")
        values = layout.gather(operand.buffer, entries).abs().view(plain.shape(len(operand.buffer)))
        return State(replace(operand.type, layout=plain), values)
    return operand.double().abs() if operand.is_floating_point() else operand


def rounds_inside(node: Node, value: str) -> bool:
    """Whether a fused body has a bf16 value on the way to a result, or the result is one."""
    if node.body is None:
        return False
    made = [one for part in _above(node.body, (value,)) for one in part.outputs]
    types = [node.body.types[one] for one in made]
    return any(isinstance(one, TensorType) and one.dtype == "bf16" for one in types)


def _above(body: Graph, needed: Sequence[str]) -> tuple[Node, ...]:
    """The body's nodes that `needed` depends on, in order."""
    wanted = set(needed)
    kept: list[Node] = []
    for node in reversed(body.nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))


def steps_of(node: Node) -> int:
    """Dependent fp32 roundings: nodes of a body, or what the op declares."""
    if node.body is not None:
        return len(node.body.nodes)
    spec = OPS[node.op]
    return spec.roundings(full_attrs(spec, node.attrs))


def _terms(node: Node, operands: Sequence[Operand]) -> int:
    """How many products a node's result sums, by its op's declaration; 0 if it sums none."""
    spec = OPS[node.op]
    if not spec.summed:
        return 0
    for arg, operand in zip(spec.operands, operands, strict=False):
        names = arg.dims.split()
        if spec.summed in names and not isinstance(operand, State):
            shape = operand.type.dims if isinstance(operand, Weight) else operand.shape
            return shape[names.index(spec.summed) - len(names)]
    raise AssertionError(f"{node.op} declares no operand with the dim {spec.summed}")


def state_ratio(result: State, expected: State, fused: bool) -> float:
    """0 if all bytes are equal, else decoded entries against one step of the cache's format."""
    if torch.equal(result.buffer, expected.buffer):
        return 0.0
    y, r = result.buffer, expected.buffer
    if isinstance(result.type, CacheType):
        layout = result.type.layout
        pages = (y != r).flatten(1).any(1).nonzero()[:, 0]
        index = pages[:, None] * layout.page + torch.arange(layout.page, device=y.device)
        y, r = layout.gather(y, index), layout.gather(r, index)
        if layout.format != "f32":
            step, inner = state_bound(result.type, fused)
            bound = step * r.abs() + inner * r.abs().amax(-1, keepdim=True)
            return float(((y - r).abs() / bound.clamp(min=1e-30)).nan_to_num(math.inf).max())
    return ratio(y, r, "f32", None, 0)


def state_bound(type_: CacheType | RowsType, fused: bool) -> tuple[float, float]:
    """What of a value's own magnitude, and what of its entry's largest, its error may be."""
    if isinstance(type_, RowsType) or type_.layout.format == "f32":
        return ROUNDOFF["f32"], 4 * ROUNDOFF["f32"] * math.sqrt(_width(type_))
    inner = 2 * ROUNDOFF["bf16"] if fused else 1e-5
    if fused and type_.layout.format == "mxfp4":
        inner += _MXFP4_MOVE
    return _STEPS[type_.layout.format], inner


def _width(type_: CacheType | RowsType) -> int:
    return type_.width if isinstance(type_, RowsType) else type_.layout.width


def is_routing(node: Node) -> bool:
    """Whether a node chooses experts by their scores; its first results are experts and weights."""
    parts = node.body.nodes if node.body else (node,)
    return any(part.op == "route_learned" for part in parts)


def only_ties(results: Sequence[Operand], expected: Sequence[Operand]) -> bool:
    """Whether two routings differ only between experts whose weights are equal but for rounding."""
    (_, weights, *_), (_, exact, *_) = results, expected
    assert isinstance(weights, torch.Tensor)
    assert isinstance(exact, torch.Tensor)
    gap = (weights.double().sort(1).values - exact.double().sort(1).values).abs()
    return bool((gap <= _TIE * exact.double().abs().amax()).all())
