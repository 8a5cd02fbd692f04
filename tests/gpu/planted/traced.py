"""Kernels as racecheck can follow them: with mbarriers only, at which every lane arrives.

racecheck (2025.3) loses track where warps meet at a named barrier that only a part of the block
shares, where one lane arrives at an mbarrier for its warp, behind a barrier of the warp, and where
lanes of a warp wait at different mbarriers and then start bulk copies together (it follows those
that wait at the first one's): `pingpong`, `elected` and `lanes` of faults.py are minimal correct
kernels of these forms. So it is given the same text with the forms replaced. Who waits for whom
stays the same: a named barrier becomes an mbarrier that counts the same threads, each of which
arrives, and waits where it waited; a lane that arrived for its warp becomes all lanes of the warp;
lanes that share an mbarrier wait and copy in a branch of their own, one branch after another, and
each waits for nothing else than before. Whatever else is wrong stays wrong: faults.py has kernels
for each form that must still be reported. Only a missing barrier of the warp before a lane that
arrives for it does not show any more; test_sanitized.py looks for it in the text. An mbarrier is
made by an instruction of the whole warp: where the same thread arrives next (the hyper-connections'
fn), a barrier of the block comes between.
"""

from __future__ import annotations

import re

HELPERS = '''
TRACED = {}


@cute.jit
def traced_start(smem, counts: cutlass.Constexpr):
    """An mbarrier for every named barrier, and where each thread stands with it."""
    bars = smem.allocate_array(Int64, len(counts))
    thread, _, _ = cute.arch.thread_idx()
    if thread == 0:
        for i in cutlass.range_constexpr(len(counts)):
            if cutlass.const_expr(counts[i] > 0):
                cute.arch.mbarrier_init(bars + i, counts[i])
        cute.arch.mbarrier_init_fence()
    cute.arch.sync_threads()
    phases = cute.make_rmem_tensor((len(counts),), Int32)
    phases.fill(0)
    TRACED["bars"], TRACED["phases"] = bars, phases


@cute.jit
def traced_arrive(barrier_id, number_of_threads):
    cute.arch.mbarrier_arrive(TRACED["bars"] + barrier_id)
    TRACED["phases"][barrier_id] = TRACED["phases"][barrier_id] ^ 1


@cute.jit
def traced_sync(barrier_id, number_of_threads):
    cute.arch.mbarrier_arrive(TRACED["bars"] + barrier_id)
    cute.arch.mbarrier_wait(TRACED["bars"] + barrier_id, TRACED["phases"][barrier_id])
    TRACED["phases"][barrier_id] = TRACED["phases"][barrier_id] ^ 1


'''
# Kind -> before which line the barriers are made, and how many threads share each, by number.
_SITE = "    if thread == 0:\n        for b in cutlass.range_constexpr(2 * tile.groups + 2):\n"
_GROUPS = "([0] + [32 * tile.warps, 32 * tile.warps + 32, 32 * tile.warps + 32] * tile.groups)"
BARRIERS: dict[str, tuple[tuple[str, str], ...]] = {
    "index_scores": (
        ("    own_bars = bars + group * stages\n", "[0] + [128] * warpgroups"),
        ("    if tid < stages * groups:\n", "[0, 128 * groups]"),
    ),
    "inverse_rope_wo_a": (
        ("    w_tiles = cute.local_tile(w, (", "[0, 32 * tile.warps, ROPE_THREADS]"),
    ),
    "linears": (),
    "mhc_first": ((_SITE, _GROUPS),),
    "mhc_head": ((_SITE, _GROUPS),),
    "mhc_seam": ((_SITE, _GROUPS),),
    "moe_down": (
        ("    weights = (weight.iterator.toint(), ", "[0, 32 * SUM_WARPS]"),
        ("    if warp_id == 0:\n        large_start_ring(", "[0, 128, 128]"),
    ),
    "moe_gate_up": (
        ("    weights = (weight.iterator.toint(), ", "[0, 32 * SUM_WARPS]"),
        ("    if warp_id == 0:\n        large_start_ring(", "[0, 128, 128]"),
    ),
    "planted": (("    if thread == 0:\n        count =", "[0, THREADS, THREADS]"),),
    "sparse_attention": (
        ("    caches = Caches(", "[0, CONSUMERS, PRODUCERS + CONSUMERS, CONSUMERS, CONSUMERS]"),
    ),
}
# Kind -> which lanes bring parts of a ring; the number of a lane's part; of how many.
BRINGERS: dict[str, tuple[str, str, str]] = {
    "index_scores": ("(turn == i % turns) & (i < mine)", "group", "groups"),
    "planted": ("thread < PARTS", "thread", "PARTS"),
}
_ARRIVES = "    if thread == 0:\n        bytes_ = cutlass.const_expr(ROWS"
_ELECTED = re.compile(
    r"^( *)if (?:cute\.arch\.lane_idx\(\)|lane|thread % 32) == 0:\n +(cute\.arch\.mbarrier_arrive\()",
    re.MULTILINE,
)


def needs_trace(name: str) -> bool:
    """Whether racecheck cannot follow the kernel of this name as it is."""
    kinds = ("inverse_rope_wo_a", "mhc_", "moe_", "sparse_attention")
    return name.startswith(kinds) or (
        name.startswith(("index_scores", "linears")) and "fp4" in name
    )


def traced(kind: str, text: str) -> str:
    """The text of a kernel with these forms replaced.

    Args:
        kind: of the kernel, a key of BARRIERS.
        text: as `render` gives it.
    """
    if kind in BRINGERS:
        text = _by_turns(text, *BRINGERS[kind])
    text = _ELECTED.sub(r"\1\2", text)
    text = text.replace(_ARRIVES, f"    cute.arch.sync_threads()\n{_ARRIVES}")
    text = re.sub(r"mbarrier_init\((.+), (.+)\)$", _init, text, flags=re.MULTILINE)
    found = 0
    for line, counts in BARRIERS[kind]:
        found += text.count(line)
        text = text.replace(line, f"    traced_start(smem, {counts})\n{line}")
    if BARRIERS[kind]:
        assert found, kind
        text = re.sub(r"cute\.arch\.barrier\((?=\s*barrier_id)", "traced_sync(", text)
        text = re.sub(r"cute\.arch\.barrier_arrive\((?=\s*barrier_id)", "traced_arrive(", text)
        first = re.search(r"^@(cute\.jit|dataclass)", text, re.MULTILINE)
        assert first
        text = text[: first.start()] + HELPERS.lstrip("\n") + text[first.start() :]
    return text


def _init(found: re.Match[str]) -> str:
    """Counts of warps become counts of lanes; one arrival that completes a load is one thread's.

    A count of threads, `32 * warps` or one more, stays.
    """
    bar, count = found.groups()
    if count == "loads":
        count = "1 if loads == 1 else 32 * loads"
    elif count != "1" and not count.startswith(("32 * ", "1 + 32 * ")):
        count = f"32 * ({count})"
    return f"mbarrier_init({bar}, {count})"


def _by_turns(text: str, condition: str, number: str, count: str) -> str:
    """A branch for the lanes of each part; what is in it stays as far indented as it was."""
    line = re.compile(rf"^( *)if {re.escape(condition)}:$", re.MULTILINE)
    branches = (
        rf"\1for part_ in cutlass.range_constexpr({count}):"
        rf"\n\1  if ({condition}) & ({number} == part_):"
    )
    text, found = line.subn(branches, text)
    assert found == 1, condition
    return text
