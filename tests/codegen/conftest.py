"""A small kernel to build: reverses each row of 256 through shared memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dsv4c.codegen.kernel import KernelSource

BODY = '''\
"""y[m, 255 - t] = x[m, t] through shared memory."""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float32, Int64
from cutlass.cute.runtime import make_fake_stream, make_fake_tensor
from cutlass.memory import SmemAllocator

SLOTS = 256


@cute.kernel
def kernel(x: cute.Tensor, y: cute.Tensor):
    t, _, _ = cute.arch.thread_idx()
    row, _, _ = cute.arch.block_idx()
    buffer = SmemAllocator().allocate_tensor(Float32, cute.make_layout(SLOTS), byte_alignment=16)
    buffer[t] = x[Int64(row), t].to(Float32)
    cute.arch.sync_threads()
    y[Int64(row), t] = buffer[255 - t].to(BFloat16)


@cute.jit
def entry(x: cute.Tensor, y: cute.Tensor, stream: cuda.CUstream):
    if x.shape[0] > 0:
        kernel(x, y).launch(grid=[x.shape[0], 1, 1], block=[256, 1, 1], stream=stream)


def example_args():
    rows = cute.sym_int()

    def tensor():
        return make_fake_tensor(BFloat16, (rows, 256), (256, 1), assumed_align=16)

    return tensor(), tensor(), make_fake_stream(use_tvm_ffi_env_stream=True)
'''


@pytest.fixture
def make_source() -> Callable[..., KernelSource]:
    """(name, arch, old text, new text) -> the small kernel, with a change."""

    def make(
        name: str = "reverse_256", arch: str = "sm_90a", old: str = "", new: str = ""
    ) -> KernelSource:
        assert old in BODY
        return KernelSource(name, "reverse", arch, "# header\n", BODY.replace(old, new, 1), {})

    return make
