"""Kernels that show who starts before the previous kernel has written.

`FAULT` is replaced before the file is compiled:
late       lets the next kernel start, waits 30 us, and only then copies source to target
waiting    copies at once, but may start early: it waits for the previous kernel
unwaiting  does not wait
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Uint8
from cutlass.cute.runtime import make_fake_stream, make_fake_tensor

FAULT = "late"
BLOCKS, THREADS, MICROSECONDS = 16, 512, 30


@cute.kernel
def kernel(source: cute.Tensor, target: cute.Tensor):
    thread, _, _ = cute.arch.thread_idx()
    block, _, _ = cute.arch.block_idx()
    if cutlass.const_expr(FAULT != "unwaiting"):
        cute.arch.griddepcontrol_launch_dependents()
        cute.arch.griddepcontrol_wait()
    if cutlass.const_expr(FAULT == "late"):
        for _ in cutlass.range(MICROSECONDS, unroll=1):
            cute.arch.inline_ptx("nanosleep.u32 1000;")
    first = block * THREADS + thread
    for i in cutlass.range(first, source.shape[0], BLOCKS * THREADS, unroll=1):
        target[i] = source[i]


@cute.jit
def entry(source: cute.Tensor, target: cute.Tensor, stream: cuda.CUstream):
    kernel(source, target).launch(
        grid=[BLOCKS, 1, 1], block=[THREADS, 1, 1], stream=stream, use_pdl=True
    )


def example_args():
    """Fake arguments: two vectors of bytes."""
    source, target = (
        make_fake_tensor(Uint8, (cute.sym_int(),), (1,), assumed_align=1) for _ in "st"
    )
    return source, target, make_fake_stream(use_tvm_ffi_env_stream=True)
