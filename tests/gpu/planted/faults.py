"""Kernels with one fault each, to show that compute-sanitizer finds it in code like ours.

`FAULT` is replaced by the name of a fault before the file is compiled:
none       y[i] = x[127 - i] through shared memory, as it should be
outside    the last thread writes one element behind y's memory
race       no barrier between writing shared memory and reading it
unwritten  the second half of x is never written by anyone
diverged   half of a warp waits at the block's barrier
overlap    as pingpong, but the first half does not wait for the second one
hasty      as elected, but the lane arrives before its warp has written
overtaken  as rearrive, but the writers do not wait until the readers are done
early      a bulk copy fills shared memory; it is read before the copy's mbarrier says so
refilled   the next bulk copy goes to the same place, and nobody knows whether all have read
unwaited   as rearrive, but nobody waits for the first phase
crossed    as lanes, but both lanes wait until the first half is free

Correct as well, in ways that a tool may not follow; what it reports here is its limit, not a fault:
arrive     half of the threads write and only arrive at a named barrier, the others wait at it
mbarrier   half of the threads write and arrive at an mbarrier, the others wait for its phase
elected    as mbarrier, but one lane arrives for its warp, behind a barrier of the warp
pingpong   the halves hand over to each other in turn, through two named barriers
rearrive   as mbarrier twice; that the first phase is over, the writers know from another mbarrier
bulk       bulk copies fill shared memory twice; the second one starts when all have read
lanes      two lanes of a warp each fill a half twice, and wait until their own half is free
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64
from cutlass.cute.runtime import make_fake_stream, make_fake_tensor
from cutlass.memory import SmemAllocator

FAULT = "none"
THREADS = 128
PARTS, READERS = 2, 2  # of shared memory that have barriers of their own; warps that read both


@cute.kernel
def kernel(x: cute.Tensor, y: cute.Tensor):
    thread, _, _ = cute.arch.thread_idx()
    smem = SmemAllocator()
    shared = smem.allocate_tensor(Float32, cute.make_layout(THREADS), byte_alignment=16)
    bar = smem.allocate_array(Int64, 2 + 2 * PARTS)
    if thread == 0:
        count = 2 if cutlass.const_expr(FAULT in ("elected", "hasty")) else THREADS // 2
        if cutlass.const_expr(FAULT in ("bulk", "early", "refilled")):
            count = 1
        cute.arch.mbarrier_init(bar, count)
        cute.arch.mbarrier_init(bar + 1, THREADS // 2)
        for part in cutlass.range_constexpr(PARTS):
            cute.arch.mbarrier_init(bar + 2 + part, 1)
            cute.arch.mbarrier_init(bar + 2 + PARTS + part, 32 * READERS)
        cute.arch.mbarrier_init_fence()
    cute.arch.sync_threads()
    if cutlass.const_expr(FAULT in ("bulk", "early", "refilled")):
        bulk(x, y, shared, bar, thread)
    elif cutlass.const_expr(FAULT in ("lanes", "crossed")):
        lanes(x, y, shared, bar + 2, bar + 2 + PARTS, thread)
    elif cutlass.const_expr(FAULT in ("pingpong", "overlap")):
        pingpong(x, y, shared, thread)
    elif cutlass.const_expr(FAULT in ("rearrive", "overtaken", "unwaited")):
        rearrive(x, y, shared, bar, thread)
    elif cutlass.const_expr(FAULT in ("arrive", "mbarrier", "elected", "hasty")):
        handover(x, y, shared, bar, thread)
    else:
        exchange(x, y, shared, thread)


@cute.jit
def handover(x: cute.Tensor, y: cute.Tensor, shared: cute.Tensor, bar: cute.Pointer, thread: Int32):
    """Threads of the first half write, those of the second read what they wrote."""
    if thread < THREADS // 2:
        if cutlass.const_expr(FAULT == "hasty"):
            cute.arch.sync_warp()
            if thread % 32 == 0:
                cute.arch.mbarrier_arrive(bar)
        shared[thread] = x[thread]
        if cutlass.const_expr(FAULT == "arrive"):
            cute.arch.barrier_arrive(barrier_id=1, number_of_threads=THREADS)
        elif cutlass.const_expr(FAULT == "elected"):
            cute.arch.sync_warp()
            if thread % 32 == 0:
                cute.arch.mbarrier_arrive(bar)
        elif cutlass.const_expr(FAULT == "mbarrier"):
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
                if cutlass.const_expr(FAULT == "pingpong" or turn == 0):
                    cute.arch.barrier(barrier_id=1 + turn, number_of_threads=THREADS)
                y[thread] = shared[other]


@cute.jit
def rearrive(x: cute.Tensor, y: cute.Tensor, shared: cute.Tensor, bar: cute.Pointer, thread: Int32):
    """Full and empty mbarriers of a pipeline with one stage, used twice."""
    for i in cutlass.range(2, unroll=1):
        if thread < THREADS // 2:
            if i > 0 and cutlass.const_expr(FAULT != "overtaken"):
                cute.arch.mbarrier_wait(bar + 1, i - 1)
            shared[thread] = x[thread]
            cute.arch.mbarrier_arrive(bar)
        else:
            if i > 0 or cutlass.const_expr(FAULT != "unwaited"):
                cute.arch.mbarrier_wait(bar, i)
            y[thread] = shared[THREADS - 1 - thread]
            cute.arch.mbarrier_arrive(bar + 1)


@cute.jit
def bulk(x: cute.Tensor, y: cute.Tensor, shared: cute.Tensor, bar: cute.Pointer, thread: Int32):
    """Thread 0 brings x to shared memory, twice; all threads read it, both times."""
    for i in cutlass.range(2, unroll=1):
        if thread == 0:
            bring(x.iterator.toint(), shared.iterator.toint(), bar, 4 * THREADS)
        if cutlass.const_expr(FAULT != "early"):
            cute.arch.mbarrier_wait(bar, i)
        y[thread] = shared[THREADS - 1 - thread]
        if cutlass.const_expr(FAULT == "early"):
            cute.arch.mbarrier_wait(bar, i)
        if cutlass.const_expr(FAULT != "refilled"):
            cute.arch.sync_threads()


@cute.jit
def bring(source: Int64, target: Int32, bar: cute.Pointer, size: cutlass.Constexpr):
    """A bulk copy to shared memory that completes a phase of `bar`."""
    cute.arch.mbarrier_arrive_and_expect_tx(bar, size)
    cute.arch.inline_ptx(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
        " [{$r0}], [{$r1}], {$r2}, [{$r3}];",
        read_only_args=[target, source, Int32(size), bar.toint()],
    )


@cute.jit
def lanes(
    x: cute.Tensor, y: cute.Tensor, shared: cute.Tensor, full: cute.Pointer, free: cute.Pointer,
    thread: Int32,
):  # fmt: skip
    """Threads 0 and 1 bring a half of x each, twice; the last warps read one, then the other."""
    size = cutlass.const_expr(THREADS // PARTS)
    for i in cutlass.range(2, unroll=1):
        if thread < PARTS:
            if i > 0:
                own = Int32(0) if cutlass.const_expr(FAULT == "crossed") else thread
                cute.arch.mbarrier_wait(free + own, i - 1)
            at = thread * (4 * size)
            bring(x.iterator.toint() + at, shared.iterator.toint() + at, full + thread, 4 * size)
        if thread >= THREADS - 32 * READERS:
            for part in cutlass.range_constexpr(PARTS):
                cute.arch.mbarrier_wait(full + part, i)
                y[part * size + thread % size] = shared[part * size + size - 1 - thread % size]
                cute.arch.mbarrier_arrive(free + part)


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
    x, y = (make_fake_tensor(Float32, (cute.sym_int(),), (1,), assumed_align=16) for _ in "xy")
    return x, y, make_fake_stream(use_tvm_ffi_env_stream=True)
