"""What the card of this machine can do: copies and matrix products of torch, measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from dsv4c import hardware
from dsv4c.bench.results import Card, Time
from dsv4c.bench.timing import Call, time_calls
from dsv4c.errors import DsvError

_COPIED = 1 << 28
_SIDE = 8192


def require_gpu(command: str, where: str, target: str) -> None:
    """Raise DsvError DSV601 where torch has no GPU.

    Args:
        command: that times kernels.
        where: the folder whose kernels they are.
        target: of the kernels.
    """
    if torch.cuda.is_available():
        return
    present = ", ".join(gpu.name for gpu in hardware.gpus())
    raise DsvError(
        "DSV601",
        f"{command} needs a GPU and there is none",
        where=where,
        expected=f"a GPU of {target}",
        found=f"{present}, which torch {torch.__version__} cannot use" if present else "no GPU",
        hint="install torch with CUDA, see dsv4c env"
        if present
        else "copy the folder to a machine with one: no compiler is needed there",
    )


def measure_card() -> Card:
    """The limits of the current device, in about a second."""
    facts = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Card(
        facts.name,
        str(torch.__version__),
        facts.L2_cache_size,
        copy_rate(),
        _product_rate(_bf16_product),
        _fp8_rate(),
    )


def copy_rate() -> float:
    """Bytes per second, read plus written, of copies on the device: 2 GiB in four of them."""
    parts = [torch.empty(_COPIED, dtype=torch.uint8, device="cuda").random_() for _ in range(8)]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    calls: list[Call] = [partial(into.copy_, source) for into, source in pairs]
    return 2 * _COPIED / _seconds(time_calls(calls))


def _product_rate(make: Callable[[], Call]) -> float:
    return 2.0 * _SIDE**3 / _seconds(time_calls([make(), make()]))


def _fp8_rate() -> float | None:
    try:
        return _product_rate(_fp8_product)
    except (RuntimeError, NotImplementedError):
        return None


def _bf16_product() -> Call:
    a, b, out = (torch.randn(_SIDE, _SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    return lambda: torch.mm(a, b.T, out=out)


def _fp8_product() -> Call:
    a, b = (torch.randn(_SIDE, _SIDE, device="cuda").to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones((), device="cuda")
    product = torch._scaled_mm  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    return lambda: product(a, b.T, one, one, out_dtype=torch.bfloat16)


def _seconds(time: Time) -> float:
    return time.us * 1e-6
