"""Kernels with one fault each, to show that compute-sanitizer finds it in code like ours.

`FAULT` is replaced by the name of a fault before the file is compiled:
none       y[i] = x[127 - i] through shared memory, as it should be
outside    the last thread writes one element behind y's memory
race       no barrier between writing shared memory and reading it
unwritten  the second half of x is never written by anyone
diverged   half of a warp waits at the block's barrier

Correct as well, in ways that a tool may not follow; what it reports here is its limit, not a fault:
arrive     half of the threads write and only arrive at a named barrier, the others wait at it
mbarrier   half of the threads write and arrive at an mbarrier, the others wait for its phase
elected    as mbarrier, but one lane arrives for its warp, behind a barrier of the warp
pingpong   the halves hand over to each other in turn, through two named barriers
rearrive   as mbarrier twice; that the first phase is over, the writers know from another mbarrier
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64
from cutlass.cute.runtime import make_fake_stream, make_fake_tensor
from cutlass.memory import SmemAllocator

FAULT = "none"
THREADS = 128


@cute.kernel
def kernel(x: cute.Tensor, y: cute.Tensor):
    thread, _, _ = cute.arch.thread_idx()
    shared = SmemAllocator().allocate_tensor(Float32, cute.make_layout(THREADS), byte_alignment=16)
    bar = SmemAllocator().allocate_array(Int64, 2)
    if thread == 0:
        count = 2 if cutlass.const_expr(FAULT == "elected") else THREADS // 2
        cute.arch.mbarrier_init(bar, count)
        cute.arch.mbarrier_init(bar + 1, THREADS // 2)
        cute.arch.mbarrier_init_fence()
    cute.arch.sync_threads()
    if cutlass.const_expr(FAULT == "pingpong"):
        pingpong(x, y, shared, thread)
    elif cutlass.const_expr(FAULT == "rearrive"):
        rearrive(x, y, shared, bar, thread)
    elif cutlass.const_expr(FAULT in ("arrive", "mbarrier", "elected")):
        handover(x, y, shared, bar, thread)
    else:
        exchange(x, y, shared, thread)


@cute.jit
def handover(x: cute.Tensor, y: cute.Tensor, shared: cute.Tensor, bar: cute.Pointer, thread: Int32):
    """Threads of the first half write, those of the second read what they wrote."""
    if thread < THREADS // 2:
        shared[thread] = x[thread]
        if cutlass.const_expr(FAULT == "arrive"):
            cute.arch.barrier_arrive(barrier_id=1, number_of_threads=THREADS)
        elif cutlass.const_expr(FAULT == "elected"):
            cute.arch.sync_warp()
            if thread % 32 == 0:
                cute.arch.mbarrier_arrive(bar)
        else:
            cute.arch.mbarrier_arrive(bar)
    else:
        if cutlass.const_expr(FAULT == "arrive"):
            cute.arch.barrier(barrier_id=1, number_of_threads=THREADS)
        else:
            cute.arch.mbarrier_wait(bar, 0)
        y[thread] = shared[THREADS - 1 - thread]


@cute.jit
def pingpong(x: cute.Tensor, y: cute.Tensor, shared: cute.Tensor, thread: Int32):
    """In turn 0 the first half writes and the second one reads, in turn 1 the other way round."""
    half = thread // (THREADS // 2)
    other = THREADS - 1 - thread
    for _ in cutlass.range(2, unroll=1):
        for turn in cutlass.range_constexpr(2):
            if half == turn:
                shared[thread] = x[thread]
                cute.arch.barrier_arrive(barrier_id=1 + turn, number_of_threads=THREADS)
            else:
                cute.arch.barrier(barrier_id=1 + turn, number_of_threads=THREADS)
                y[thread] = shared[other]


@cute.jit
def rearrive(x: cute.Tensor, y: cute.Tensor, shared: cute.Tensor, bar: cute.Pointer, thread: Int32):
    """Full and empty mbarriers of a pipeline with one stage, used twice."""
    for i in cutlass.range(2, unroll=1):
        if thread < THREADS // 2:
            if i > 0:
                cute.arch.mbarrier_wait(bar + 1, i - 1)
            shared[thread] = x[thread]
            cute.arch.mbarrier_arrive(bar)
        else:
            cute.arch.mbarrier_wait(bar, i)
            y[thread] = shared[THREADS - 1 - thread]
            cute.arch.mbarrier_arrive(bar + 1)


@cute.jit
def exchange(x: cute.Tensor, y: cute.Tensor, shared: cute.Tensor, thread: Int32):
    """Every thread writes one element and reads another's."""
    shared[thread] = x[thread]
    if cutlass.const_expr(FAULT == "diverged"):
        if thread % 32 < 16:
            cute.arch.sync_threads()
    elif cutlass.const_expr(FAULT != "race"):
        cute.arch.sync_threads()
    place = Int32(thread)
    if cutlass.const_expr(FAULT == "outside"):  # noqa: SIM102 (decided while compiling)
        if thread == THREADS - 1:
            place = Int32(y.shape[0])
    y[place] = shared[THREADS - 1 - thread]


@cute.jit
def entry(x: cute.Tensor, y: cute.Tensor, stream: cuda.CUstream):
    kernel(x, y).launch(grid=[1, 1, 1], block=[THREADS, 1, 1], stream=stream)


def example_args():
    """Fake arguments: two vectors of f32."""
    x, y = (make_fake_tensor(Float32, (cute.sym_int(),), (1,), assumed_align=4) for _ in "xy")
    return x, y, make_fake_stream(use_tvm_ffi_env_stream=True)
