"""Which GPUs this machine has, asked of the CUDA driver itself: no torch, a few milliseconds."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76
_TARGETS = {(9, 0): "sm_90a", (10, 0): "sm_100a"}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA device.

    Attributes:
        name: as the driver calls it.
        capability: compute capability, (major, minor).
        memory: bytes of device memory.
    """

    name: str
    capability: tuple[int, int]
    memory: int

    @property
    def target(self) -> str | None:
        """The compile target of this device, None where dsv4c has none."""
        return _TARGETS.get(self.capability)


def gpus() -> tuple[Gpu, ...]:
    """The devices that CUDA_VISIBLE_DEVICES leaves, in order; empty without a usable driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    return tuple(_gpu(driver, index) for index in range(count.value))


def _gpu(driver: ctypes.CDLL, index: int) -> Gpu:
    device, number = ctypes.c_int(), ctypes.c_int()
    memory, name = ctypes.c_size_t(), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability: list[int] = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        capability.append(number.value)
    return Gpu(name.value.decode(), (capability[0], capability[1]), memory.value)


def default_target() -> str:
    """The target of the first GPU, or `cpu` where there is none that dsv4c compiles for."""
    found = gpus()
    return (found[0].target if found else None) or "cpu"
