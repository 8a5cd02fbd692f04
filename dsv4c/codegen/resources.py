"""Registers, stack and shared memory of a kernel, read from what the compiler leaves behind.

ptxas records registers and stack in the `.nv.info` sections of the cubin (an ELF file), so no CUDA
tool is needed; the layout is NVIDIA's and undocumented, and agrees with `cuobjdump -res-usage`.
Shared memory is sized at launch: its size is a constant of the lowered host code.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# .nv.info records: u8 format, u8 attribute, then u16 value or u16 size + payload (format 4).
_SIZED = 0x04
_REGISTERS, _FRAME = 0x2F, 0x11

# cudaLaunchConfig_t is {gridDim, blockDim, dynamicSmemBytes, stream, attributes, count}.
_SMEM_STORE = re.compile(
    r"%(\d+) = llvm\.getelementptr %\d+\[0, 2\][^\n]*array<3 x i32>, array<3 x i32>, i64[^\n]*\n"
    r"\s*llvm\.store %(\d+), %\1 : i64"
)
_CONSTANT = re.compile(r"%(\d+) = llvm\.mlir\.constant\((\d+) : i64\)")


@dataclass(frozen=True, slots=True)
class Resources:
    """What one thread or block of a kernel occupies; the maximum where a source has several kernels.

    Args:
        registers: 32-bit registers per thread.
        spills: bytes of stack frame per thread: register spills and arrays in local memory.
        smem: bytes of shared memory per block that a launch asks for.
    """

    registers: int
    spills: int
    smem: int


def read_resources(cubin: bytes, host_ir: str) -> Resources:
    """The resources of one compiled source.

    Args:
        cubin: device code of all its kernels.
        host_ir: the lowered host module (MLIR text in the LLVM dialect).

    Raises:
        ValueError: the bytes are not a 64-bit little-endian ELF file with kernels.
    """
    most = {_REGISTERS: 0, _FRAME: 0}
    for name, data in _sections(cubin):
        if name != ".nv.info":
            continue
        for attribute, payload in _records(data):
            if attribute in most and len(payload) == 8:
                most[attribute] = max(most[attribute], struct.unpack("<II", payload)[1])
    if not most[_REGISTERS]:
        raise ValueError("no kernel in the cubin")
    return Resources(most[_REGISTERS], most[_FRAME], _launch_smem(host_ir))


def _launch_smem(host_ir: str) -> int:
    """The largest dynamic shared memory size that a launch of the module asks for."""
    most = 0
    for function in host_ir.split("llvm.func ")[1:]:
        constants = dict(_CONSTANT.findall(function))
        sizes = [int(constants.get(value, 0)) for _, value in _SMEM_STORE.findall(function)]
        most = max([most, *sizes])
    return most


def _sections(elf: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and bytes (none for sections without content) of every section."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    table, entry, count, names = struct.unpack_from("<Q10xHHH", elf, 40)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + i * entry) for i in range(count)]
    strings = headers[names][4]
    for name, kind, _, _, offset, size in headers:
        end = elf.index(b"\0", strings + name)
        no_bits = kind == 8
        data = b"" if no_bits else elf[offset : offset + size]
        yield elf[strings + name : end].decode(), data


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        form, attribute, size = struct.unpack_from("<BBH", data, at)
        at += 4
        if form == _SIZED:
            yield attribute, data[at : at + size]
            at += size
