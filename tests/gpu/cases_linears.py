"""Cases of kind linears: several weights of different formats times the same activations.

The reference is float64 over the bf16 activations and exactly dequantised weights.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from harness import (
    BF16_ROUNDING,
    DEVICE,
    F32_ROUNDING,
    LENGTHS,
    Bench,
    Case,
    Gate,
    Run,
    Shape,
    compare,
    count_gate,
    rounding_bound,
)

from dsv4c.codegen.kernels import _moe
from dsv4c.codegen.kernels import linears as family
from dsv4c.codegen.packing import packing

KIND = family.KIND
FP8 = ("fp8_128", "fp8_128_f32")
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def _attention(q: int, kv: int, projections: Sequence[int]) -> list[family.Weight]:
    fp8 = [("fp8_128", q, False), ("fp8_128", kv, False)]
    return [*fp8, *(("bf16", rows, True) for rows in projections)]


# Node -> K and its weights. Sites of Flash, Pro and the bundled size; odd shapes and formats.
NODES: dict[str, tuple[int, list[family.Weight]]] = {
    "flash_csa": (4096, _attention(1024, 512, (256, 256, 64, 1024, 1024))),
    "flash_hca": (4096, _attention(1024, 512, (512, 512))),
    "flash_swa": (4096, _attention(1024, 512, ())),
    "flash_q": (1024, [("fp8_128", 32768, False), ("fp8_128", 8192, False)]),
    "flash_q_swa": (1024, [("fp8_128", 32768, False)]),
    "flash_o": (8192, [("fp8_128", 4096, False)]),
    "flash_head": (4096, [("bf16", 129280, True)]),
    "pro_csa": (7168, _attention(1536, 512, (256, 256, 64, 1024, 1024))),
    "pro_hca": (7168, _attention(1536, 512, (512, 512))),
    "pro_q_hca": (1536, [("fp8_128", 65536, False)]),
    "pro_q": (1536, [("fp8_128", 65536, False), ("fp8_128", 8192, False)]),
    "pro_o": (16384, [("fp8_128", 7168, False)]),
    "pro_head": (7168, [("bf16", 129280, True)]),
    "tiny_csa": (
        256,
        [
            ("fp8_128", rows, f32)
            for rows, f32 in (
                (128, False),
                (512, False),
                (256, True),
                (256, True),
                (32, True),
                (1024, True),
                (1024, True),
            )
        ],
    ),
    "tiny_q": (128, [("fp8_128", 4096, False), ("fp8_128", 4096, False)]),
    "tiny_o": (256, [("fp8_128", 256, False)]),
    "tiny_head": (256, [("bf16", 2048, True)]),
    "bf16_csa": (4096, [("bf16", rows, False) for rows in (1024, 512, 256, 256, 64, 1024, 1024)]),
    "bf16_q": (1024, [("bf16", 32768, False), ("bf16", 8192, False)]),
    "bf16_o": (8192, [("bf16", 4096, False)]),
    "f32_scales_q": (1024, [("fp8_128_f32", 32768, False)]),
    "nvfp4_q": (1024, [("nvfp4", 32768, False), ("nvfp4", 8192, False)]),
    "nvfp4_o": (8192, [("nvfp4", 4096, False)]),
    "mxfp4_q": (1024, [("mxfp4", 32768, False)]),
    "nvfp4_csa": (
        4096,
        [("nvfp4", rows, False) for rows in (1024, 512)]
        + [("bf16", rows, True) for rows in (256, 256, 64, 1024, 1024)],
    ),
    "mixed": (
        2560,
        [
            ("nvfp4", 520, False),
            ("mxfp4", 264, True),
            ("fp8_128_f32", 392, False),
            ("bf16", 72, True),
            ("fp8_128", 136, True),
            ("nvfp4", 64, True),
        ],
    ),
    "odd": (1152, [("bf16", 40, False), ("fp8_128", 200, False), ("fp8_128_f32", 8, True)]),
    "narrow": (
        128,
        [
            ("nvfp4", 136, True),
            ("fp8_128_f32", 200, False),
            ("mxfp4", 520, False),
            ("bf16", 72, True),
            ("fp8_128", 264, False),
        ],
    ),
    "narrow_bf16": (128, [("bf16", 1024, False), ("bf16", 40, True)]),
    "narrow_f32_scales": (128, [("fp8_128_f32", 640, True)]),
    "narrow_nvfp4": (128, [("nvfp4", 2048, False)]),
    "narrow_mxfp4": (128, [("mxfp4", 264, True)]),
}
SMALL = ("flash_csa", "tiny_csa", "mixed", "odd", "narrow")
PREFILL = ("flash_csa", "flash_q", "flash_o", "pro_csa", "nvfp4_o")
EDGES = (2, 7, 9, 17, 31, 33, 63, 65)
# In the tiles of mma.sync and of clusters that no other length is in.
TILES = (16, 32, 500, 1000)
# Columns of a result that are checked at once.
COLUMNS = 1 << 14
TIMED = ("flash_csa", "flash_hca", "flash_swa", "flash_q", "flash_o", "flash_head", "pro_csa",
         "pro_q", "pro_o", "nvfp4_q", "nvfp4_o", "mxfp4_q", "f32_scales_q", "bf16_csa", "bf16_q",
         "bf16_o")  # fmt: skip
TIMES = (1, 8, 16, 32, 64)
LONG = (128, 256, 512, 4096)
# A row's bits are the same for all T within 1..16, 17..32 and 33..64, then within a tile's lengths.
BATCHES = ((1, 8), (3, 7), (1, 16), (9, 16), (17, 31), (18, 32), (33, 64), (65, 128), (130, 256))


@dataclass(frozen=True)
class Setup:
    """Shapes and kind of data of one case."""

    node: str
    tokens: int
    what: str = "check"
    fewer: int = 0

    @property
    def name(self) -> str:
        tail = "" if self.what == "check" else f"_{self.what}{self.fewer or ''}"
        return f"{self.node}_t{self.tokens}{tail}"

    @property
    def depth(self) -> int:
        return NODES[self.node][0]

    @property
    def weights(self) -> list[family.Weight]:
        return NODES[self.node][1]

    @property
    def kernel(self) -> str:
        return family.kernel_name(family.choose(self.depth, self.weights, "sm_90a"), "")


def variants(arch: str) -> list[family.Params]:
    """One kernel a node."""
    return [family.choose(*node, arch) for node in NODES.values()]


def cases() -> list[Case]:
    """Every node and length; edges, odd values, scales and batches for some; then times."""
    lengths = sorted({*LENGTHS, *TILES})
    found = [make_case(Setup(node, tokens)) for node in NODES for tokens in lengths]
    found.append(make_case(Setup("tiny_o", 8500)))
    for node in SMALL:
        found += [make_case(Setup(node, tokens)) for tokens in EDGES]
        found += [make_case(Setup(node, tokens, "odd")) for tokens in (8, 13, 40)]
        found += [make_case(Setup(node, tokens, "scales")) for tokens in (7, 33)]
        found += [make_case(Setup(node, tokens, "huge")) for tokens in (3, 50)]
        found += [_batch_case(Setup(node, most, "batch", few)) for few, most in BATCHES]
        found += [_repeat_case(Setup(node, tokens, "repeat")) for tokens in (5, 64)]
        found.append(make_case(Setup(node, 0, "empty")))
    for node in ("flash_q", "pro_q_hca"):
        found += [make_case(Setup(node, tokens, "scales")) for tokens in (48, 130, 300)]
    found += [make_case(Setup("nvfp4_csa", tokens, "scales")) for tokens in (7, 33, 130)]
    found += [_batch_case(Setup("nvfp4_csa", most, "batch", few)) for few, most in BATCHES]
    for node in ("flash_q", "flash_o", "pro_q_hca", "nvfp4_q", "nvfp4_o"):
        sizes = ((1, 8), (1, 16), (9, 16), (18, 32), (33, 64), (65, 128))
        found += [_batch_case(Setup(node, most, "batch", few)) for few, most in sizes]
    for node in ("nvfp4_csa", "pro_q_hca"):
        found += [_repeat_case(Setup(node, tokens, "repeat")) for tokens in (5, 33, 64)]
    for node in ("flash_csa", "flash_q", "flash_o"):
        found += [_chain_case(Setup(node, tokens, "chain")) for tokens in (7, 20, 48)]
        found += [_repeat_case(Setup(node, tokens, "repeat")) for tokens in (1, 32)]
    return found + list(_timed())


def _timed() -> Iterator[Case]:
    for node in TIMED:
        for tokens in (*TIMES, *(LONG if node in PREFILL else ())):
            yield make_case(Setup(node, tokens, "time"))


def make_case(setup: Setup) -> Case:
    moved = sum(weight_bytes(form, rows, setup.depth) for form, rows, _ in setup.weights)
    moved += setup.tokens * setup.depth * 2
    moved += sum(setup.tokens * rows * (4 if f32 else 2) for _, rows, f32 in setup.weights)
    flops = 2 * setup.tokens * setup.depth * sum(rows for _, rows, _ in setup.weights)
    # The baseline takes weights that were dequantised beforehand: those of the bf16 cases.
    plain = all(form == "bf16" for form, _, _ in setup.weights)
    bench = Bench(moved, flops, {"cublas": torch_version} if plain else {})
    timed = setup.what == "time"
    return Case(
        name=setup.name,
        kernel=setup.kernel,
        inputs=functools.partial(_inputs, setup),
        outputs=functools.partial(_outputs, setup),
        verify=None if timed else functools.partial(_verify, setup),
        bench=bench if timed else None,
    )


def weight_bytes(form: str, rows: int, depth: int) -> int:
    """Stored bytes of a weight."""
    bits = {"bf16": 16, "nvfp4": 4.5, "mxfp4": 4.25}.get(form, 8)
    size = int(rows * depth * bits / 8)
    if form in FP8:
        size += -(-rows // 128) * -(-depth // 128) * (4 if form == "fp8_128_f32" else 1)
    return size


def torch_version(x: torch.Tensor, *weights: torch.Tensor) -> list[torch.Tensor]:
    """A matrix product each, with bf16 results."""
    return [x @ weight.T for weight in weights]


def _outputs(setup: Setup, inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
    tokens = inputs[0].shape[0]
    return [
        ((tokens, rows), torch.float32 if f32 else torch.bfloat16) for _, rows, f32 in setup.weights
    ]


def _repeat_case(setup: Setup) -> Case:
    """Twenty calls give the same bits."""

    def outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
        return [*_outputs(setup, inputs), ((1,), torch.int64)]

    def call(kernel: Callable[..., object], *given: torch.Tensor) -> None:
        count = len(setup.weights)
        *inputs, wrong = given
        inputs, outs = inputs[:-count], inputs[-count:]
        kernel(*inputs, *outs)
        again = [torch.empty_like(out) for out in outs]
        wrong.zero_()
        for _ in range(20):
            for one in again:
                one.fill_(torch.nan)
            kernel(*inputs, *again)
            for one, out in zip(again, outs, strict=True):
                wrong += (one.view(torch.uint8) != out.view(torch.uint8)).sum()

    def verify(run: Run) -> list[Gate]:
        return [count_gate("twenty", run.outputs[-1])]

    return replace(make_case(setup), outputs=outputs, call=call, verify=verify)


def _chain_case(setup: Setup) -> Case:
    """In a graph, activations that the kernel just before has written are read, not older ones."""
    steps = 6

    def outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
        return 2 * [((steps, *shape), dtype) for shape, dtype in _outputs(setup, inputs)]

    def call(kernel: Callable[..., object], *given: torch.Tensor) -> None:
        count = len(setup.weights)
        x, *weights = given[: -2 * count]
        overlapped, alone = given[-2 * count : -count], given[-count:]
        buffer = torch.empty_like(x)
        for step in range(steps):
            torch.mul(x, step - 2.5, out=buffer)
            torch.cuda.synchronize()
            kernel(buffer, *weights, *(out[step] for out in alone))
            torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for step in range(steps):
                torch.mul(x, step - 2.5, out=buffer)
                kernel(buffer, *weights, *(out[step] for out in overlapped))
        for _ in range(5):
            graph.replay()

    def verify(run: Run) -> list[Gate]:
        count = len(setup.weights)
        pairs = zip(run.outputs[:count], run.outputs[count:], strict=True)
        return [count_gate(f"overlap{i}", a.view(torch.uint8) != b.view(torch.uint8))
                for i, (a, b) in enumerate(pairs)]  # fmt: skip

    return replace(make_case(setup), outputs=outputs, call=call, verify=verify)


def _batch_case(setup: Setup) -> Case:
    """A row's bits do not depend on the rows around it, nor on how many there are in a bucket."""

    def outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
        whole = _outputs(setup, inputs)
        return 2 * [((setup.fewer, shape[1]), dtype) for shape, dtype in whole]

    def call(kernel: Callable[..., object], *given: torch.Tensor) -> None:
        count = len(setup.weights)
        x, *weights = given[: -2 * count]
        few, many = given[-2 * count : -count], given[-count:]
        pick = torch.arange(x.shape[0], device=DEVICE).flip(0)[: setup.fewer]
        kernel(x[pick].contiguous(), *weights, *few)
        whole = [out.new_empty(x.shape[0], out.shape[1]) for out in few]
        others = x.clone()
        others[: x.shape[0] - setup.fewer] = torch.nan
        kernel(others, *weights, *whole)
        for out, one in zip(many, whole, strict=True):
            out.copy_(one[pick])

    def verify(run: Run) -> list[Gate]:
        count = len(setup.weights)
        pairs = zip(run.outputs[:count], run.outputs[count:], strict=True)
        return [count_gate(f"batch{i}", a.view(torch.uint8) != b.view(torch.uint8))
                for i, (a, b) in enumerate(pairs)]  # fmt: skip

    return replace(make_case(setup), outputs=outputs, call=call, verify=verify)


def _inputs(setup: Setup, seed: int) -> list[torch.Tensor]:
    make = torch.Generator(DEVICE).manual_seed(seed)
    x = torch.randn(setup.tokens, setup.depth, generator=make, device=DEVICE).bfloat16()
    if setup.what == "odd":
        x[1, 5], x[5, 77] = math.nan, math.nan
        x[3, 60], x[4, 61] = math.inf, -math.inf
        x[6] = 0
    if setup.what == "huge":
        x *= 2.0**100
    parts = [x]
    for form, rows, _ in setup.weights:
        parts += _weight(setup, form, rows, make)
    return parts


def _weight(setup: Setup, form: str, rows: int, make: torch.Generator) -> list[torch.Tensor]:
    """Codes and scales like a checkpoint's, or scales of every size."""
    depth, wide = setup.depth, setup.what == "scales"

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=make, device=DEVICE, dtype=torch.uint8)

    if form == "bf16":
        normal = torch.randn(rows, depth, generator=make, device=DEVICE)
        weight = (0.02 * normal).bfloat16()
        if setup.what == "odd":
            weight[3] = 0
        return [weight]
    if form in FP8:
        codes = integers(0, 254, rows, depth)
        codes = codes + (codes >= 127).to(torch.uint8)
        if not wide:
            # Magnitudes up to 60, as of a normal distribution's bulk.
            codes = codes & 0xDF
        blocks = (-(-rows // 128), -(-depth // 128))
        if form == "fp8_128":
            scale = integers(*((16, 220) if wide else (110, 118)), *blocks)
            if setup.what == "odd":
                scale[-1, -1] = 255
            return [codes, scale]
        scale = torch.rand(*blocks, generator=make, device=DEVICE) * 2.0**-12
        exponent = integers(0, 160, *blocks).float() - 80 if wide else torch.zeros_like(scale)
        return [codes, scale * torch.exp2(exponent)]
    # In the packed order any code is legal.
    units = (-(-rows // 32), depth // 64)
    codes = integers(0, 256, *units, 1024)
    if form == "mxfp4":
        return [codes, integers(*((0, 240) if wide else (112, 122)), *units, 64)]
    words = integers(*((0, 127) if wide else (40, 80)), *units, 128).view(torch.int32)
    scale = ((words << 4) | ((words >> 28) & 15)).view(torch.uint8)
    scale_2 = torch.rand((), generator=make, device=DEVICE) * 1e-3 + 1e-4
    return [codes, scale, scale_2]


def split(setup: Setup, parts: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Components by weight."""
    found, at = [], 0
    for form, _, _ in setup.weights:
        count = {"bf16": 1, "nvfp4": 3}.get(form, 2)
        found.append(list(parts[at : at + count]))
        at += count
    return found


def natural(form: str, rows: int, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Components as a checkpoint has them; as `Packing.unpack`, but on the device."""
    found = list(parts)
    for layout in packing(_moe.packing(form, False)).layouts if family.BITS[form] == 4 else ():
        i = ("weight", "scale").index(layout.part)
        found[i] = layout.unpack(found[i])[:rows]
    return found


def dequantised(form: str, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """A weight in float64."""
    weight = parts[0]
    if form == "bf16":
        return weight.double()
    scale = parts[1]
    if form == "nvfp4":
        scale = scale.view(torch.float8_e4m3fn).double() * parts[2].double()
    elif form != "fp8_128_f32":
        scale = torch.where(scale == 255, torch.nan, torch.exp2(scale.double() - 127))
    if form in FP8:
        rows, depth = weight.shape
        scale = scale.double().repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)
        return weight.view(torch.float8_e4m3fn).double() * scale[:, :depth]
    codes = torch.stack([weight & 15, weight >> 4], -1).flatten(1).long()
    value = E2M1.to(weight.device).double()[codes & 7] * torch.where(codes > 7, -1.0, 1.0).double()
    return value * scale.repeat_interleave(16 if form == "nvfp4" else 32, 1)


def _verify(setup: Setup, run: Run) -> list[Gate]:
    if setup.tokens == 0:
        return []
    x, *parts = run.inputs
    x = x.double()
    gates: list[Gate] = []
    for i, (spec, components) in enumerate(zip(setup.weights, split(setup, parts), strict=True)):
        form, rows, f32 = spec
        components = natural(form, rows, components)
        for first in range(0, rows, COLUMNS):
            part = slice(first, first + COLUMNS)
            w = dequantised(form, _rows(form, components, part))
            reference, size = x @ w.T, x.abs() @ w.abs().T
            out = 2 * F32_ROUNDING if f32 else BF16_ROUNDING
            bound = rounding_bound(reference, size, setup.depth, out=out)
            gates.append(compare(f"y{i}", run.outputs[i][:, part], reference, bound))
            if setup.what == "odd":
                gates.append(Gate("has_nan", bool(reference[[1, 5]].isnan().all()), 0.0))
    return gates


def _rows(form: str, parts: Sequence[torch.Tensor], part: slice) -> list[torch.Tensor]:
    """Components of some rows of a weight, from a multiple of 128 on."""
    blocks = slice(part.start // 128, -(-part.stop // 128))
    found = [one[blocks if form in FP8 and i else part] for i, one in enumerate(parts[:2])]
    return [*found, *parts[2:]]
