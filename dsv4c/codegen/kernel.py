"""The types that kernel families, the renderer and the build share, and the registry of families.

A family is a module of `dsv4c.codegen.kernels` with the members of `Family`. This module imports
no IR and no compiler, so that facts and parameters stay plain, picklable and printable.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, cast

from dsv4c.codegen.tuned import Lookup
from dsv4c.errors import DsvError

Scalar = int | float | str | bool
Role = Literal["tensor", "weight", "state"]

ARCHS = ("sm_90a", "sm_100a")


@dataclass(frozen=True, slots=True)
class ValueFacts:
    """What a kernel must know about one operand or result.

    Args:
        role: `tensor`, `weight` (stands for its components, in the format's order) or `state`.
        dtype: `f32`, `bf16`, `i32`, `i64`, `u8`; for a state the element of its buffer.
        dims: sizes; a string is a symbol such as `T` that is known at run time only.
        format: weight format (`bf16`, `fp8_128`, ...) or cache format (`fp8`, `bf16`, `f32`).
        page: entries per page of a cache.
        rope: how many trailing dims of a cache entry carry RoPE.
    """

    role: Role
    dtype: str
    dims: tuple[int | str, ...]
    format: str | None = None
    page: int | None = None
    rope: int | None = None


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One fused node as its template sees it: operands and results in order, attributes by name."""

    kind: str
    inputs: tuple[ValueFacts, ...]
    outputs: tuple[ValueFacts, ...]
    attrs: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class PackedOperand:
    """Weight operands of a kernel that it takes packed, as one: at the place of the first.

    Args:
        inputs: which operands; several are joined.
        packing: name of a packing of `dsv4c.codegen.packing`.
    """

    inputs: tuple[int, ...]
    packing: str


@dataclass(frozen=True, slots=True)
class Workspace:
    """Scratch memory of a kernel: an argument after the results, at an address of its own.

    Args:
        dtype: `f32`, `bf16`, `i32`, `i64` or `u8`.
        dims: sizes; a string is a symbol of the step, `T` or `7*T`.
        zeroed: it holds zeros when the kernel starts, and the kernel leaves zeros in it. Else it
            holds anything.
    """

    dtype: str
    dims: tuple[int | str, ...]
    zeroed: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a family does not take a node: one clause with the values that decided it."""

    reason: str


class KernelParams:
    """Base of every family's `Params`: a frozen dataclass of ints, floats, strings and bools."""

    __slots__ = ()

    def values(self) -> dict[str, Scalar]:
        """Field name -> value, in declaration order."""
        fields = dataclasses.fields(cast("dataclasses.DataclassInstance", self))  # pyright: ignore
        return {field.name: cast(Scalar, getattr(self, field.name)) for field in fields}


@dataclass(frozen=True, slots=True)
class KernelSource:
    """One rendered kernel.

    Args:
        name: the exported function; says what the kernel does.
        kind: the family.
        arch: the target it is compiled for.
        header: comment block: template, parameters, provenance. Not part of the content key.
        body: what is compiled; a standalone Python file.
        params: the family's parameters, for the plan and for people.
        packed: weight operands that the kernel takes packed.
        workspaces: scratch memory that it wants, in the order of its arguments.
        tiles: that were looked up for it, and where they are from.
    """

    name: str
    kind: str
    arch: str
    header: str
    body: str
    params: Mapping[str, Scalar]
    packed: tuple[PackedOperand, ...] = ()
    workspaces: tuple[Workspace, ...] = ()
    tiles: tuple[Lookup, ...] = ()

    @property
    def text(self) -> str:
        """Header and body: the file that the plan keeps."""
        return self.header + self.body


class Family(Protocol):
    """What a module of `dsv4c.codegen.kernels` offers; its template is `<KIND>.py.jinja`.

    A family whose kernels want weights in another layout also has a function `packed_operands`, from
    the parameters to a tuple of `PackedOperand`; one whose kernels want scratch memory has
    `workspaces`, from the parameters to a tuple of `Workspace`.
    """

    KIND: str

    def select(self, facts: NodeFacts, arch: str) -> KernelParams | Refusal:
        """Parameters for a node on `arch`, or the reason why the family does not take it."""
        ...

    def kernel_name(self, params: KernelParams, arch: str) -> str:
        """The exported function's name: an identifier that says the content."""
        ...

    def context(self, params: KernelParams) -> dict[str, object]:
        """Values for the template: ints, bools, strings that are identifiers, and tuples of these.

        `name`, `arch` and every field of `params` are added by the renderer.
        """
        ...


def kinds() -> tuple[str, ...]:
    """Every kind that a family exists for."""
    from dsv4c.codegen import kernels

    return tuple(kernels.MODULES)


def family(kind: str) -> Family:
    """The family of a kind.

    Raises:
        DsvError: DSV303 when there is none.
    """
    from dsv4c.codegen import kernels

    if kind not in kernels.MODULES:
        known = ", ".join(kernels.MODULES)
        raise DsvError("DSV303", "no kernel family of this kind", found=kind, expected=known)
    return cast(Family, importlib.import_module(kernels.MODULES[kind]))


def check_arch(arch: str) -> str:
    """`arch` itself if kernels can be compiled for it.

    Raises:
        DsvError: DSV302 otherwise.
    """
    if arch not in ARCHS:
        raise DsvError("DSV302", "unknown GPU target", expected=" or ".join(ARCHS), found=arch)
    return arch
