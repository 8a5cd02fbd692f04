"""What a bench finds, and its JSON: written as it is, read strictly."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from dsv4c.errors import DsvError

SCHEMA = "dsv4c.bench/1"


class Time(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Microseconds: the median of several replays, and their quartiles."""

    us: float
    low: float
    high: float


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A GPU and its measured limits.

    Attributes:
        name: of the device.
        torch: version that made the copies and products.
        l2: bytes of the L2 cache.
        copy: bytes per second, read plus written, of copies of 256 MiB, 2 GiB in all.
        bf16: FLOP/s of a bf16 product of 8192 x 8192 x 8192 on random data.
        fp8: the same of e4m3 operands with one scale each; None where torch has no such product.
    """

    name: str
    torch: str
    l2: int
    copy: float
    bf16: float
    fp8: float | None

    def floor_us(self, moved: float, flops: float) -> float:
        """Microseconds that no kernel beats: bytes at the copy rate, or FLOPs at that of bf16."""
        return 1e6 * max(moved / self.copy, flops / self.bf16)

    def bound(self, moved: float, flops: float) -> str:
        """Which of the two it is: `memory` or `arithmetic`."""
        return "memory" if moved / self.copy >= flops / self.bf16 else "arithmetic"


class KernelRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kernel of a step; figures of work are of one node, the mean over its nodes.

    Attributes:
        kernel: its name.
        kind: its family.
        nodes: how many nodes of the step it runs.
        launches: GPU kernels that one call launches.
        time: of one call, in a graph of calls that rotate through copies of its operands.
        in_step_us: what a call adds to the graph of the step; None where that was not measured.
        bytes: that must move.
        flops: of the node.
        floor_us: `Card.floor_us` of them.
        bound: `memory` or `arithmetic`.
        rotated: bytes that the rotating copies make a round move; below the L2's size they stay
            in it, and the kernel may be faster than memory.
        registers: of a thread.
        spills: bytes of a thread.
        smem: bytes of a block.
    """

    kernel: str
    kind: str
    nodes: int
    launches: int
    time: Time
    in_step_us: float | None
    bytes: float
    flops: float
    floor_us: float
    bound: str
    rotated: float
    registers: int
    spills: int
    smem: int

    @property
    def share(self) -> float:
        """Floor over time."""
        return self.floor_us / self.time.us


class LayerRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A layer inside the step's graph.

    Attributes:
        layer: its number in the whole model.
        kind: `csa`, `hca` or `swa` (window only).
        kernels: nodes that it takes.
        time: that its nodes add to the graph of the nodes before them.
        bytes: that cross its boundary: weights, caches, streams; nothing between its kernels.
        flops: of its nodes.
        floor_us: `Card.floor_us` of them.
        apart: the time where no kernel begins before the one before it has ended (DSV4C_PDL=0).
    """

    layer: int
    kind: str
    kernels: int
    time: Time
    bytes: float
    flops: float
    floor_us: float
    apart: Time | None = None

    @property
    def ratio(self) -> float:
        """Time over floor."""
        return self.time.us / self.floor_us


class StepRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step of `tokens` tokens of `sequences` sequences with `context` tokens each before it.

    Attributes:
        time: of the whole step as one CUDA graph; None where nodes have no kernel.
        floor_us: `Card.floor_us` of what crosses the boundary of the step.
        launches: GPU kernels of the graph.
        reference_nodes: nodes that have no kernel and are not timed.
        apart: the time where no kernel begins before the one before it has ended (DSV4C_PDL=0).
    """

    sequences: int
    tokens: int
    context: int
    time: Time | None
    floor_us: float
    launches: int
    kernels: list[KernelRow]
    layers: list[LayerRow]
    reference_nodes: int
    apart: Time | None = None

    @property
    def saved_us(self) -> float | None:
        """Microseconds that overlap saves for each launch."""
        return (self.apart.us - self.time.us) / self.launches if self.apart and self.time else None


class PeerRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One shape, timed on both sides in one process, unless results differ.

    Attributes:
        peer: name of the other implementation.
        case: the shape.
        time: of the generated kernels; None where nothing was timed.
        peer_time: of the peer.
        bytes: the fewest bytes that the work must move; 0 where that was not counted.
        ratio: worst error of the generated kernels over the bound, at most 1 when right.
        peer_ratio: of the peer, by the same reference and bound.
        bound: what the errors are held against.
        note: why a row has no times, or what the two sides do differently.
    """

    peer: str
    case: str
    time: Time | None = None
    peer_time: Time | None = None
    bytes: int = 0
    ratio: float = 0.0
    peer_ratio: float = 0.0
    bound: str = ""
    note: str = ""

    @property
    def speedup(self) -> float | None:
        """Time of the peer over that of the generated kernels."""
        return self.peer_time.us / self.time.us if self.time and self.peer_time else None


class Bench(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole run.

    Attributes:
        plan: name of its folder, or of the config that was compiled for the run.
        target: of the plan.
        card: measured in the same run.
        steps: decode steps, then prefill.
        peers: None where none were asked for.
    """

    plan: str
    target: str
    card: Card
    steps: list[StepRow]
    peers: list[PeerRow] | None = None


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One figure in two runs.

    Attributes:
        what: which step, layer or kernel, or rate of the card.
        unit: `us`, where less is better, or `TB/s` or `TFLOP/s`.
        old: in the earlier run; None if it is not there.
        new: in the later one; None if it is not there.
        ratio: new over old.
    """

    what: str
    unit: str
    old: float | None
    new: float | None
    ratio: float | None


class _Document(Bench, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema: str
    changes: list[Change] | None = None


def document(found: Bench, changes: list[Change] | None = None) -> dict[str, object]:
    """The fields of a JSON document, without its schema."""
    fields: dict[str, object] = msgspec.to_builtins(found)
    return fields | {"changes": msgspec.to_builtins(changes)}


def encode(found: Bench, changes: list[Change] | None = None) -> bytes:
    """The JSON document that `read_bench` reads."""
    whole = {"schema": SCHEMA} | document(found, changes)
    return msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n"


def read_bench(path: Path) -> Bench:
    """A result of an earlier run.

    Raises:
        DsvError: DSV101 if the file is no such result, or a figure in it is not positive.
    """
    try:
        read = msgspec.json.decode(path.read_bytes(), type=_Document)
        if read.schema != SCHEMA:
            raise ValueError(f"schema {read.schema!r}")
        for name, value in _figures(read):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}")
    except (OSError, ValueError) as error:
        raise DsvError(
            "DSV101",
            "the bench result cannot be read",
            where=str(path),
            expected=f"what `dsv4c bench --out FILE` writes ({SCHEMA})",
            found=str(error),
        ) from error
    return read


def _figures(read: Bench) -> list[tuple[str, float]]:
    """What others are divided by."""
    card = read.card
    found = [("card.copy", card.copy), ("card.bf16", card.bf16)]
    if card.fp8 is not None:
        found.append(("card.fp8", card.fp8))
    for step in read.steps:
        if step.time is not None:
            found.append(("the time of a step", step.time.us))
        found += [(f"the time of {one.kernel}", one.time.us) for one in step.kernels]
        found += [(f"the time of layer {one.layer}", one.time.us) for one in step.layers]
        found += [(f"the floor of layer {one.layer}", one.floor_us) for one in step.layers]
    for peer in read.peers or ():
        times = (peer.time, peer.peer_time)
        found += [(f"a time beside {peer.peer}", one.us) for one in times if one is not None]
    return found
