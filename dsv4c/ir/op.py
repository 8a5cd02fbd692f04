"""The op registry: one declaration per op, from which everything else is derived.

`infer` follows from dim patterns: operands bind names to dims, results are spelled with them.
A pattern is a text such as `"T H c"`; `*h` stands for any number of dims; names bound by integer
attributes may be used in results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dsv4c.ir.graph import Attr
from dsv4c.ir.types import (
    FLOATS,
    CacheType,
    Dim,
    Dims,
    RowsType,
    Sym,
    TensorType,
    Type,
    WeightType,
)

if TYPE_CHECKING:
    import torch

    from dsv4c.ir.values import State, Weight

    Operand = torch.Tensor | Weight | State
    Reference = Callable[..., "torch.Tensor | tuple[torch.Tensor, ...]"]

Role = Literal["tensor", "weight", "cache", "rows"]
_ROLES: dict[type, Role] = {
    TensorType: "tensor",
    WeightType: "weight",
    CacheType: "cache",
    RowsType: "rows",
}


@dataclass(frozen=True, slots=True)
class Arg:
    """One operand or result: its role and, for tensors and weights, dims and allowed dtypes.

    As a result, `dtype` names a dtype, `"attr"` (attribute `dtype`) or `"like"` (operand 0).
    """

    name: str
    dims: str = ""
    role: Role = "tensor"
    dtype: str = "float"


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of one node: floating-point operations, bytes read and bytes written."""

    flops: float = 0
    read: float = 0
    write: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.read + other.read, self.write + other.write)


CostRule = Callable[[Mapping[str, int], Mapping[str, Attr]], float]


@dataclass(frozen=True)
class OpSpec:
    """Declaration of one op.

    Attributes:
        name: the op's name in text form.
        doc: one line with the formula, then facts.
        operands: in order.
        results: in order; a state result replaces the state operand of the same order.
        attrs: attribute name -> default value; a bare type means required.
        reference: plain torch in the context's precision; called with operands, then attributes.
        flops: operations, from bound dims and attributes.
        traffic: bytes that states add to reads and writes, from bound dims and attributes.
        summed: if not empty, results are sums of products over this dim's elements; the reference
            on absolute values then bounds what rounding can do to each element.
        roundings: dependent fp32 steps between operands and results, where they are many (loops).
        masked: results are -inf where there is nothing; elsewhere no op makes an infinity.
        check: further rule on operand types and attributes; returns what is wrong, or "".
    """

    name: str
    doc: str
    operands: tuple[Arg, ...]
    results: tuple[Arg, ...]
    reference: Reference
    attrs: Mapping[str, Attr | type] = field(default_factory=dict[str, "Attr | type"])
    flops: CostRule = lambda dims, attrs: 0
    traffic: CostRule = lambda dims, attrs: 0
    check: Callable[[Sequence[Type], Mapping[str, Attr]], str] = lambda types, attrs: ""
    summed: str = ""
    masked: bool = False
    roundings: Callable[[Mapping[str, Attr]], int] = lambda attrs: 1


OPS: dict[str, OpSpec] = {}


def register(spec: OpSpec) -> OpSpec:
    assert spec.name not in OPS, f"op {spec.name} is declared twice"
    OPS[spec.name] = spec
    return spec


class OpError(ValueError):
    """A node does not fit its op's declaration; the text says how."""


def full_attrs(spec: OpSpec, attrs: Mapping[str, Attr]) -> dict[str, Attr]:
    """Attributes with defaults filled in. Raises OpError on unknown, missing or mistyped ones."""
    unknown = sorted(set(attrs) - set(spec.attrs))
    if unknown:
        raise OpError(f"{spec.name} has no attribute {unknown[0]}; it has {sorted(spec.attrs)}")
    result: dict[str, Attr] = {}
    for name, default in spec.attrs.items():
        wanted = default if isinstance(default, type) else type(default)
        if name not in attrs and isinstance(default, type):
            raise OpError(f"{spec.name} needs the attribute {name} ({default.__name__})")
        value = attrs.get(name, default)
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise OpError(f"attribute {name} of {spec.name} is {value!r}, not {wanted.__name__}")
        result[name] = value  # pyright: ignore[reportArgumentType]
    return result


def bind(pattern: str, dims: Dims, bound: dict[str, Dim | Dims], what: str) -> None:
    """Match dims with a pattern, extending `bound`. Raises OpError on a mismatch."""
    names = pattern.split()
    star = next((i for i, name in enumerate(names) if name.startswith("*")), None)
    extra = len(dims) - len(names)
    if (star is None and extra) or extra < -1:
        raise OpError(f"{what} has {len(dims)} dims {dims}, expected [{pattern}]")
    pairs: list[tuple[str, Dim | Dims]] = []
    if star is None:
        pairs = list(zip(names, dims, strict=True))
    else:
        tail = len(names) - star - 1
        end = len(dims) - tail
        pairs = [*zip(names[:star], dims[:star], strict=True), (names[star], dims[star:end])]
        pairs += zip(names[star + 1 :], dims[end:], strict=True)
    for name, dim in pairs:
        wanted = int(name) if name.isdigit() else bound.setdefault(name, dim)
        if wanted != dim:
            raise OpError(f"{what}: dim {name} is {dim}, expected {wanted} as bound before")


def spell(pattern: str, bound: Mapping[str, Dim | Dims]) -> Dims:
    """Dims of a result. A word is a bound name, `m+n`, or `page*P`."""
    dims: list[Dim] = []
    for word in pattern.split():
        if word.startswith("*"):
            dims.extend(_dims(bound[word]))
        elif "+" in word:
            left, right = (_dim(bound[name]) for name in word.split("+"))
            dims.append(_added(left, right))
        elif "*" in word:
            left, right = (_dim(bound[name]) for name in word.split("*"))
            dims.append(left * right)  # pyright: ignore[reportOperatorIssue]
        else:
            value = int(word) if word.isdigit() else bound[word]
            dims.extend(value if isinstance(value, tuple) else (value,))
    return tuple(dims)


def _added(left: Dim, right: Dim) -> Dim:
    if isinstance(left, int):
        return right + left
    if isinstance(right, int):
        return left + right
    if left.name != right.name:
        raise OpError(f"{left} and {right} cannot be added")
    return Sym(left.name, left.scale + right.scale, left.offset + right.offset)


def _dim(value: Dim | Dims) -> Dim:
    assert not isinstance(value, tuple)
    return value


def _dims(value: Dim | Dims) -> Dims:
    assert isinstance(value, tuple)
    return value


def bind_operands(
    spec: OpSpec, types: Sequence[Type], attrs: Mapping[str, Attr]
) -> dict[str, Dim | Dims]:
    """Dims bound by the operands and by integer attributes. Raises OpError."""
    if len(types) != len(spec.operands):
        raise OpError(f"{spec.name} takes {len(spec.operands)} operands, found {len(types)}")
    bound: dict[str, Dim | Dims] = {}
    for arg, type_ in zip(spec.operands, types, strict=True):
        what = f"operand {arg.name} of {spec.name}"
        role = _ROLES[type(type_)]
        if role != arg.role:
            raise OpError(f"{what} is a {role}, expected a {arg.role}")
        if isinstance(type_, TensorType | WeightType):
            bind(arg.dims, type_.dims, bound, what)
        if isinstance(type_, TensorType):
            allowed = FLOATS if arg.dtype == "float" else (arg.dtype,)
            if arg.dtype != "any" and type_.dtype not in allowed:
                raise OpError(f"{what} has dtype {type_.dtype}, expected {' or '.join(allowed)}")
    for name, value in attrs.items():
        if type(value) is int or isinstance(value, tuple):
            known = bound.setdefault(name, value)
            if known != value:
                raise OpError(
                    f"attribute {name} of {spec.name} is {value}, its operands have {known}"
                )
    return bound


def infer(op: str, types: Sequence[Type], attrs: Mapping[str, Attr]) -> tuple[Type, ...]:
    """Result types of an op. Raises OpError with the operand or attribute that does not fit."""
    if op not in OPS:
        raise OpError(f"there is no op {op}")
    spec = OPS[op]
    attrs = full_attrs(spec, attrs)
    bound = bind_operands(spec, types, attrs)
    wrong = spec.check(types, attrs)
    if wrong:
        raise OpError(f"{op}: {wrong}")
    states = [type_ for type_ in types if isinstance(type_, CacheType | RowsType)]
    results: list[Type] = []
    for arg in spec.results:
        if arg.role in ("cache", "rows"):
            results.append(states.pop(0))
            continue
        dtype = arg.dtype
        if dtype == "attr":
            dtype = str(attrs["dtype"])
        elif dtype == "like":
            first = types[0]
            assert isinstance(first, TensorType)
            dtype = first.dtype
        results.append(TensorType(dtype, spell(arg.dims, bound)))
    return tuple(results)
