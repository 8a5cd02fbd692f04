"""What a stored component of a weight may hold: finite numbers, and scales within their contract.

A scale is finite, not negative, and small enough that no code times it overflows float32: kernels
look for none of this, and block-scaled tensor cores ignore the sign bit of a scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from dsv4c.errors import DsvError
from dsv4c.ir.formats import E2M1_MAX, E4M3_MAX, E8M0_NAN

_PACKED = ("mxfp4", "nvfp4")
_IN_CACHE = 1 << 19  # elements
_ABS, _INF = 0x7FFFFFFF, 0x7F800000  # of float32: all bits but the sign, and infinity
_F32_MAX = torch.finfo(torch.float32).max
# Largest scale of (format, component): a byte of E8M0, a value of float32. 448 is 1.75 * 2^8 and 6
# is 1.5 * 2^2, so the exponents 119 and 125 are the last whose products stay below 2^128.
_LARGEST: Mapping[tuple[str, str], float] = MappingProxyType(
    {
        ("fp8_128", "scale"): 127 + 119,
        ("fp8_128_f32", "scale"): _F32_MAX / E4M3_MAX,
        ("mxfp4", "scale"): 127 + 125,
        ("nvfp4", "scale"): 0x7E,
        ("nvfp4", "scale_2"): _F32_MAX / (E2M1_MAX * E4M3_MAX),
    }
)


def check_component(fmt: str, component: str, tensor: Tensor, where: str = "") -> None:
    """Refuse values that are not finite, and scales outside their contract.

    Args:
        fmt: format name.
        component: which component of the format the tensor is.
        tensor: as stored.
        where: file and tensor, for the message.

    Raises:
        DsvError: DSV213.
    """
    if tensor.dtype == torch.int64 or (fmt in _PACKED and component == "weight"):
        return
    if all(_fine(fmt, component, part) for part in tensor.flatten().split(_IN_CACHE)):
        return
    where = where or f"component {component}"
    kind = "values" if component == "weight" else "scales"
    _refuse(
        fmt,
        f"{kind} that are not finite",
        f"finite {kind}",
        _not_finite(fmt, component, tensor),
        where,
    )
    if component == "weight":
        return
    if tensor.is_floating_point():
        _refuse(fmt, "negative scales", "scales of 0 or more", tensor < 0, where)
    largest = _LARGEST[fmt, component]
    text = "scales that are negative or too large"
    _refuse(fmt, text, f"at most {largest:.6g}", tensor > largest, where)


def _fine(fmt: str, component: str, part: Tensor) -> bool:
    """Whether a flat tensor is surely within its contract, by one integer maximum of its bits."""
    if not part.numel():
        return True
    if part.dtype == torch.uint8:
        if component == "weight":
            return int((part & 0x7F).amax()) < 0x7F
        return int(part.amax()) <= _LARGEST[fmt, component]
    if component != "weight":
        return False
    if part.dtype == torch.bfloat16:
        return int((part.view(torch.int16) & 0x7FFF).amax()) < 0x7F80
    return part.dtype == torch.float32 and int((part.view(torch.int32) & _ABS).amax()) < _INF


def _not_finite(fmt: str, component: str, tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        return ~torch.isfinite(tensor)
    if fmt == "nvfp4" or component == "weight":
        return (tensor & 0x7F) == 0x7F
    return tensor == E8M0_NAN


def _refuse(fmt: str, what: str, expected: str, bad: Tensor, where: str) -> None:
    if count := int(bad.sum()):
        raise DsvError(
            "DSV213",
            f"a {fmt} weight has {what}",
            where=where,
            expected=expected,
            found=f"{count} of {bad.numel()} are not",
            hint="the checkpoint is damaged: fetch the file again",
        )
