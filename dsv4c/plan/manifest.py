"""manifest.json: what a plan folder holds. Decoded strictly, before anything else is opened."""

from __future__ import annotations

from typing import Annotated

import msgspec

SCHEMA = "dsv4c.plan/3"
NO_FILE = ""
"""File of the components of synthetic weights."""


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model behind the plan: its name, and what a session must know of its config."""

    name: str
    config_sha256: str
    vocab_size: int
    layers: int
    max_position_embeddings: int
    eos_token_ids: list[int]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `compile` was asked for. `dtype` is `bf16` or `f32`."""

    dtype: str
    kv_cache: str
    chunk: int


class PackedOperand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weight operands that a kernel takes packed as one (`dsv4c.codegen.packing`)."""

    inputs: list[int]
    packing: str


class Tile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tile of a kernel: for batches of up to `most` tokens, 0 for any (`dsv4c.codegen.tuned`).

    `origin` is `table`, or the card that it was measured on.
    """

    kind: str
    most: int
    values: dict[str, int | bool | str]
    origin: str


class Kernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One generated kernel. Its source is `kernels/NAME/source.py`; resources are per thread or block."""

    name: str
    kind: str
    arch: str
    params: dict[str, int | float | str | bool]
    cache_key: str
    nodes: list[str]
    registers: int
    spills: int
    smem: int
    packed: list[PackedOperand] = []
    hand_edited: bool = False
    tiles: list[Tile] = []


class Component(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stored tensor of a weight."""

    tensor: str
    file: str
    dtype: str
    shape: list[int]


class Weight(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One weight: its format, logical dims, stored components and checkpoint tensors.

    There are no components if it is stored packed only.
    """

    format: str
    dims: list[int]
    components: list[Component]
    sources: list[str]


class Packed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A form of one or several weights that a kernel takes."""

    packing: str
    weights: list[str]
    components: list[Component]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the schedule: a node, what runs it, where its results and scratch lie."""

    node: str
    kind: str
    impl: str
    layer: int | None
    offsets: list[int]


class Arena(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The memory of a step: `step` is the largest one it is laid out for.

    Attributes:
        step: T tokens, R rows of logits, S sequences, P pages of each.
        bytes: of the arena, which the schedule's offsets point into.
        zeroed: bytes of the zeroed region, which zeroed scratch points into.
        live: the most bytes that are in use at one place of the schedule.
    """

    step: dict[str, int]
    bytes: int
    zeroed: int
    live: int


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Geometry of one state; `type` is its IR type."""

    name: str
    type: str
    bytes_per_slot: int
    bytes_per_page: int


class Pass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One pass: what it changed, how long it took, how often each of its rules did what."""

    index: int
    name: str
    modified: bool
    nodes_before: int
    nodes_after: int
    seconds: float
    applied: int
    refused: int
    ir: str | None


class SourceIr(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The IR file that a plan was compiled from, instead of the model's own graph."""

    file: str
    sha256: str
    stage: str


class Synthetic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Random weights that are made on loading (`dsv4c.checkpoint.synthetic`).

    `originals` has the number in the whole model of each layer.
    """

    seed: int
    experts: str
    attention: str
    originals: list[int]


class Manifest(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Everything about a plan but its weights and code.

    `files` has the SHA-256 of every other file of the folder, by relative path.
    """

    schema: str
    dsv4c: str
    target: Annotated[str, msgspec.Meta(pattern="^(cpu|sm_90a|sm_100a)$")]
    tools: dict[str, str]
    model: Model
    options: Options
    kernels: list[Kernel]
    library: str | None
    passes: list[Pass]
    schedule: list[Step]
    states: list[State]
    arena: Arena
    weights: dict[str, Weight]
    packed: list[Packed] = []
    files: dict[str, str]
    phases: dict[str, float]
    source_ir: SourceIr | None = None
    synthetic: Synthetic | None = None


def components(manifest: Manifest) -> list[Component]:
    """Every stored tensor of the weights."""
    return [
        one for entry in (*manifest.weights.values(), *manifest.packed) for one in entry.components
    ]


def encode(manifest: Manifest) -> bytes:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
