"""What runs under compute-sanitizer: a case of every kernel, in a form that racecheck can follow."""

from __future__ import annotations

import ast
import fnmatch
import importlib
import re
from pathlib import Path

import pytest
import sanitized
from planted.traced import BARRIERS, BRINGERS, needs_trace, traced

from dsv4c.codegen.kernel import ARCHS
from dsv4c.codegen.render import render

# One lane arrives for its warp; what a warp's lanes meet at.
ELECTED = re.compile(r"if (?:cute\.arch\.lane_idx\(\)|lane|thread % 32) == 0:")
MEET = re.compile(r"sync_warp\(\)|wait_group\(|cute\.arch\.barrier\(")
TOO_MUCH = ("moe_*_bf16_shared_bf16_e256_*",)  # bytes, for several processes at a time
KINDS = sorted(
    path.stem.removeprefix("cases_") for path in Path(__file__).parent.glob("cases_*.py")
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kernel_has_a_chosen_case(kind: str) -> None:
    kernels: dict[str, list[str]] = {}
    for case in importlib.import_module(f"cases_{kind}").cases():
        if case.verify is not None:
            kernels.setdefault(case.kernel, []).append(case.name)
    patterns = sanitized.CHOSEN[kind]
    missed = [
        kernel
        for kernel, names in kernels.items()
        if not any(fnmatch.fnmatch(name, pattern) for name in names for pattern in patterns)
    ]
    missed = [one for one in missed if not any(fnmatch.fnmatch(one, much) for much in TOO_MUCH)]
    assert missed == []


@pytest.mark.parametrize("kind", sorted(set(BARRIERS) - {"planted"}))
def test_traced_text_has_only_what_racecheck_follows(kind: str) -> None:
    params = importlib.import_module(f"cases_{kind}").variants("sm_90a")
    sources = {source.name: source for source in (render(kind, one, "sm_90a") for one in params)}
    texts = {name: traced(kind, one.body) for name, one in sources.items() if needs_trace(name)}
    assert texts
    for name, text in texts.items():
        compile(text, name, "exec")
        assert text != sources[name].body
        if BARRIERS[kind]:
            assert not re.search(r"cute\.arch\.barrier(_arrive)?\(\s*barrier_id", text)
            assert text.count("    traced_start(smem, ") >= 1
        assert not re.search(
            r"if (cute\.arch\.lane_idx\(\)|lane) == 0:\s+cute\.arch\.mbarrier_arrive\(", text
        )


def traceable(kind: str) -> str:
    """The text of a kernel of this kind that racecheck gets in its traced form."""
    if kind == "planted":
        return (Path(__file__).parent / "planted" / "faults.py").read_text(encoding="utf-8")
    params = importlib.import_module(f"cases_{kind}").variants("sm_90a")
    sources = (render(kind, one, "sm_90a") for one in params)
    return next(source.body for source in sources if needs_trace(source.name))


@pytest.mark.parametrize("kind", sorted(BRINGERS))
def test_lanes_with_barriers_of_their_own_go_by_turns(kind: str) -> None:
    """Each part's lanes do in their branch what they did together, and nothing else."""
    condition, number, count = BRINGERS[kind]
    text = traceable(kind)
    (before,) = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.If) and ast.unparse(node.test) == condition
    ]
    (loop,) = [
        node
        for node in ast.walk(ast.parse(traced(kind, text)))
        if isinstance(node, ast.For) and ast.unparse(node.target) == "part_"
    ]
    assert ast.unparse(loop.iter) == f"cutlass.range_constexpr({count})"
    (branch,) = loop.body
    assert isinstance(branch, ast.If)
    together = ast.parse(f"({condition}) & ({number} == part_)", mode="eval")
    assert ast.dump(branch.test) == ast.dump(together.body)
    assert [ast.dump(one) for one in branch.body] == [ast.dump(one) for one in before.body]
    assert any("mbarrier_wait(" in ast.unparse(one) for one in branch.body)
    assert not branch.orelse


def arrives_alone(lines: list[str]) -> list[str]:
    """Where a lane arrives for its warp with no such place in the three lines before it.

    A function whose name says that it releases something may leave that to its callers.
    """
    arrivals = [
        at
        for at, line in enumerate(lines[:-1])
        if ELECTED.fullmatch(line) and lines[at + 1].startswith("cute.arch.mbarrier_arrive(")
    ]
    alone: list[str] = []
    while arrivals:
        at = arrivals.pop()
        begin = max(i for i in range(at) if lines[i].startswith("def "))
        if any(MEET.search(line) for line in lines[max(at - 3, begin) : at]):
            continue
        name = lines[begin].removeprefix("def ").partition("(")[0]
        if "release" in name:
            arrivals += [i for i, line in enumerate(lines) if line.startswith(f"{name}(")]
        else:
            alone.append(f"{name}: {lines[at - 1]}")
    return alone


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_lane_arrives_behind_a_barrier_of_its_warp(kind: str, arch: str) -> None:
    """All lanes arrive in the text that racecheck gets: it would not see that barrier missing."""
    for params in importlib.import_module(f"cases_{kind}").variants(arch):
        body = render(kind, params, arch).body
        assert arrives_alone([line.strip() for line in body.splitlines() if line.strip()]) == []


@pytest.mark.parametrize(
    ("line", "found"), [("cute.arch.sync_warp()", []), ("y = x", ["give: y = x"])]
)
def test_a_lane_that_arrives_alone_is_found(line: str, found: list[str]) -> None:
    arrive = ["if lane == 0:", "cute.arch.mbarrier_arrive(bar)"]
    assert arrives_alone(["def give():", line, *arrive]) == found
    caller = ["def release(bar):", *arrive, "def give():", line, "release(bar)"]
    assert arrives_alone(caller) == found


def test_counts_of_warps_become_counts_of_lanes() -> None:
    """And those of threads stay: a kernel that waits for more would never end."""
    text = "cute.arch.mbarrier_init(bars + s, loads)\ncute.arch.mbarrier_init(a, 1)\n"
    text += "cute.arch.mbarrier_init(f(bars, s), tile.warps)\n"
    text += "cute.arch.mbarrier_init(full + s, 1 + 32 * ROW_WARPS)\n"
    text += "cute.arch.mbarrier_init(stage + s, 32 * COPIERS)\n"
    assert traced("linears", text).splitlines() == [
        "cute.arch.mbarrier_init(bars + s, 1 if loads == 1 else 32 * loads)",
        "cute.arch.mbarrier_init(a, 1)",
        "cute.arch.mbarrier_init(f(bars, s), 32 * (tile.warps))",
        "cute.arch.mbarrier_init(full + s, 1 + 32 * ROW_WARPS)",
        "cute.arch.mbarrier_init(stage + s, 32 * COPIERS)",
    ]
