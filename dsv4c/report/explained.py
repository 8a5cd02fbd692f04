"""The documents of `dsv4c explain`, one shape per kind of thing."""

from __future__ import annotations

from typing import Literal, TypedDict

from dsv4c.ir.graph import Attr
from dsv4c.report.kernels import TileView
from dsv4c.report.passes import PassView, RemarkView
from dsv4c.report.provenance import OriginView


class Operand(TypedDict):
    """`made_by` is the node that makes it, None for an input of the graph of kind `role`."""

    name: str
    type: str
    role: Literal["node", "step input", "weight", "state"]
    made_by: str | None


class Result(TypedDict):
    """`offset` is -1 for what lies outside of the arena: states, and views of inputs."""

    name: str
    type: str
    offset: int | None
    used_by: list[str]


class Part(TypedDict):
    """One op inside a fused node."""

    name: str
    kind: str
    tensors: list[str]


class TemplateView(TypedDict):
    """One template for a node: `taken`, or the reason why not."""

    template: str
    taken: bool
    reason: str


class Resources(TypedDict):
    """None where the kernel is not compiled."""

    registers: int | None
    spills: int | None
    smem: int | None
    hand_edited: bool


class NodeDoc(TypedDict):
    """`inside` is set where what was asked for is a value inside this fused node's body."""

    kind: Literal["node"]
    name: str
    inside: str | None
    op: str
    attrs: dict[str, Attr]
    runs_on: str
    resources: Resources | None
    origin: OriginView
    body: list[Part]
    operands: list[Operand]
    results: list[Result]
    remarks: list[RemarkView]
    templates: list[TemplateView]


class GoneDoc(TypedDict):
    """A value of an earlier stage: what made it, which pass removed it, what its readers read now."""

    kind: Literal["gone"]
    name: str
    text: str
    first_seen: str
    removed_by: str
    replaced_by: str | None
    remarks: list[RemarkView]


class KernelDoc(TypedDict):
    kind: Literal["kernel"]
    name: str
    family: str
    arch: str
    params: dict[str, int | float | str | bool]
    template: str
    source: str
    cache_key: str
    resources: Resources
    tiles: list[TileView]
    nodes: list[str]
    layers: list[int]
    tensors: list[str]
    built: list[str]
    rules: list[RemarkView]


class StayView(TypedDict):
    """`first` and `last` are places in the schedule."""

    value: str
    node: str
    type: str
    layer: int | None
    bytes: int
    first: int
    last: int


class OffsetDoc(TypedDict):
    """What lies over one byte of the arena, one after the other."""

    kind: Literal["offset"]
    name: str
    byte: int
    values: list[StayView]


class WeightDoc(TypedDict):
    kind: Literal["weight"]
    name: str
    format: str
    dims: list[int]
    bytes: int
    layer: int | None
    tensors: list[str]
    stored: list[str]
    used_by: list[Part]
    kernels: list[str]


class StateDoc(TypedDict):
    kind: Literal["state"]
    name: str
    type: str
    layer: int | None
    bytes_per_slot: int
    bytes_per_page: int
    versions: list[str]
    written_by: list[str]
    read_by: list[str]


class InputDoc(TypedDict):
    kind: Literal["step input"]
    name: str
    type: str
    used_by: list[str]


class Group(TypedDict):
    """Remarks with the same text."""

    status: str
    text: str
    count: int
    layers: list[int]
    example: str


class RuleDoc(TypedDict):
    kind: Literal["rule"]
    name: str
    doc: str
    source: str
    passes: list[PassView]
    applied: int
    refused: int
    groups: list[Group]
    warnings: list[str]


class TemplateDoc(TypedDict):
    """What became of the fused nodes of this kind."""

    kind: Literal["template"]
    name: str
    doc: str
    source: str
    nodes: int
    groups: list[Group]


class CodeDoc(TypedDict):
    kind: Literal["error code"]
    name: str
    meaning: str
    exit_code: int
    cause: str
    remedy: str


Document = (
    NodeDoc
    | GoneDoc
    | KernelDoc
    | OffsetDoc
    | WeightDoc
    | StateDoc
    | InputDoc
    | RuleDoc
    | TemplateDoc
    | CodeDoc
)
