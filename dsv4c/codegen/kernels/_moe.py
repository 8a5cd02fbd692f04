"""What the families of the experts' projections share: packed weights, their parts and checks."""

from __future__ import annotations

from dsv4c.codegen.kernel import ValueFacts
from dsv4c.codegen.tuned import Shape

# The lists of touched experts lie in shared memory.
MOST_EXPERTS = 1024
FORMATS = ("nvfp4", "mxfp4", "fp8_128", "bf16")
_STEPS = {
    "nvfp4": ("mma_fp4", "mma_nvfp4_scales"),
    "mxfp4": ("mma_fp4", "mma_mxfp4_scales"),
    "bf16": ("mma_bf16",),
}
_PARTS = {
    "nvfp4": ("weight", "scale", "scale_2"),
    "mxfp4": ("weight", "scale"),
    "fp8_128": ("weight", "scale"),
    "bf16": ("weight",),
    "none": (),
}


def packing(form: str, gate_up: bool) -> str:
    """Name of the packing of a format; w1 and w3 are packed as one, 16 rows of each in turn."""
    scales = "mma_fp8_gate_up_scales" if gate_up else "mma_fp8_scales"
    steps = _STEPS.get(form, ("mma_fp8", scales))
    return "+".join((*(("gate_up_16",) if gate_up else ()), *steps))


def parts(form: str, prefix: str = "") -> tuple[str, ...]:
    """Names of a weight's components as kernel arguments."""
    return tuple(prefix + part for part in _PARTS[form])


def tile_shape(
    experts: int, top_k: int, depth: int, groups: int, form: str, shared: str, held: int = 0
) -> Shape:
    """What a measured tile is looked up by; `held` are tokens whose sums a block holds."""
    sizes = {"experts": experts, "top_k": top_k, "depth": depth, "row_groups": groups}
    return {**sizes, "form": form, "shared_form": shared, "held": held}


def streamed_forms(form: str, shared: str) -> tuple[str, str]:
    """Formats of what the ring holds: the routed experts' alone where there is no shared one."""
    return form, form if shared == "none" else shared


def weight_reason(name: str, weight: ValueFacts, dims: tuple[int, ...], rows: int) -> str | None:
    """Why a weight is not taken, or None.

    Args:
        name: for the text.
        weight: the operand.
        dims: what they must be.
        rows: its rows must be a multiple of it, its columns of 64.
    """
    if weight.format not in FORMATS:
        return f"{name} is {weight.format}; takes {', '.join(FORMATS)}"
    if weight.dims != dims:
        return f"{name} is {list(weight.dims)}, not {list(dims)}"
    step = 128 if weight.format == "fp8_128" else rows
    if dims[-2] % step or dims[-1] % 64:
        wanted = f"multiples of {step} rows and 64 columns"
        return f"{name} is {dims[-2]} x {dims[-1]}; takes {wanted} of {weight.format}"
    return None


def tensor_reason(
    name: str, value: ValueFacts, dtype: str, dims: tuple[int | str, ...]
) -> str | None:
    """Why a tensor is not taken, or None."""
    if (value.dtype, value.dims) == (dtype, dims):
        return None
    return f"{name} is {value.dtype} {list(value.dims)}; takes {dtype} {list(dims)}"
