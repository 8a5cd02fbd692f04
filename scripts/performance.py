"""Write the tables of docs/performance.md, and its roofline pictures, from runs on the GPU.

usage: performance.py [docs/perf]

Gates come from <folder>/gates.json (`scripts/gate_summary.py`), times of kernels from <folder>/times.json
(`scripts/gpu_kernels.py --no-check`), times of torch.compile from <folder>/compile.json. bench_*.json are
documents of `dsv4c bench`. The page's text is kept; what stands between `<!-- begin NAME -->` and
`<!-- end NAME -->` is replaced.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import performance_bench  # noqa: E402
import performance_chain  # noqa: E402
import performance_peers  # noqa: E402

PAGE = ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "images"
MMA_RATE = 790e12  # FLOP/s of a bf16 8192^3 product on this card, random data

Result = dict[str, Any]


def main() -> None:
    """Fill in the page."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "perf"
    times, gates, compiled = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("times", "gates", "compile")
    )
    text = PAGE.read_text(encoding="utf-8")
    text = _put(text, "card", f"{times['device']}, torch {times['torch']}")
    for kind, kernels in gates["kinds"].items():
        text = _put(text, f"gates {kind}", _gates(kernels))
    for kind, run in _by_kind(times).items():
        text = _put(text, f"times {kind}", _times(run, compiled["baselines"]))
    text = _put(text, "plan", _plan(json.loads((folder / "gpu_text.json").read_text("utf-8"))))
    text = _put(text, "decode", _decode(json.loads((folder / "decode.json").read_text("utf-8"))))
    layers = folder / "layers.json"
    if layers.exists():
        text = _put(text, "layers", _layers(json.loads(layers.read_text(encoding="utf-8"))))
    for path in sorted(folder.glob("bench_*.json")):
        tables, picture = performance_bench.tables(path)
        for name, body in tables.items():
            text = _put(text, name, body)
        (PICTURES / f"{path.stem}.svg").write_text(picture, encoding="utf-8")
    for module in (performance_chain, performance_peers):
        for name, body in module.tables(folder).items():
            text = _put(text, name, body)
    PAGE.write_text(text, encoding="utf-8")


def _decode(found: Result) -> str:
    """Figures of `tests/gpu/decode.py`: every check of it passed, or it has an error."""
    wrong = [name for name, one in found.items() if "error" in one]
    times, fresh = found["times"], found["fresh_processes"]
    rows = [
        ("checks that failed", ", ".join(wrong) or "0"),
        ("graphs captured, seconds", f"{found['every_bucket_is_captured']['seconds']:.2f}"),
        (
            "repeats of one step with equal bits",
            f"{fresh['repeats']} in each of {fresh['processes']} processes",
        ),
        *(
            (
                f"graph replay and whole call, {n} sequences, us",
                f"{times[f'replay_us_{n}']:.0f}, {times[f'decode_us_{n}']:.0f}",
            )
            for n in (1, 2, 8)
        ),
        ("whole call without a graph, 1 sequence, us", f"{times['eager_us_1']:.0f}"),
    ]
    return "\n".join(["| figure | value |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


def _layers(found: Result) -> str:
    """Figures of `scripts/gpu_layers.py`: by kind of node, the worst error / bound in each plan."""
    worst: dict[str, dict[str, float]] = {}
    for plan, result in found.items():
        for one in result["by"].values():
            ratios = worst.setdefault(one["kind"], {})
            ratios[plan] = max(ratios.get(plan, 0.0), one["ratio"])
    lines = [f"| kind | {' | '.join(found)} |", "|---|" + "---|" * len(found)]
    for kind, ratios in worst.items():
        cells = [f"{ratios[plan]:.3f}" if plan in ratios else "-" for plan in found]
        lines.append(f"| `{kind}` | {' | '.join(cells)} |")
    for name, figure in (
        ("nodes checked", lambda one: sum(by["nodes"] for by in one["by"].values())),
        ("beyond the bound", lambda one: sum(len(by["wrong"]) for by in one["by"].values())),
        ("load, seconds", lambda one: f"{one['seconds']['load']:.1f}"),
        ("check, seconds", lambda one: f"{one['seconds']['check']:.1f}"),
        ("peak memory, GB", lambda one: f"{one['peak_gb']:.1f}"),
    ):
        lines.append(f"| {name} | {' | '.join(str(figure(one)) for one in found.values())} |")
    return "\n".join(lines)


def _by_kind(run: Result) -> dict[str, Result]:
    """The run, with the results of each kind alone."""
    kinds: dict[str, list[Result]] = {}
    for result in run["results"]:
        kinds.setdefault(result["case"].split("/")[0], []).append(result)
    return {kind: run | {"results": results} for kind, results in kinds.items()}


def _plan(found: Result) -> str:
    """Figures of `scripts/gpu_text.py`: node checks, loss, and greedy text beside the CPU plan."""
    greedy, fused = found["greedy"], found["worst_ratio"]
    rows = [
        ("nodes checked against fp64, and within their bound", f"{found['checked_nodes']:,}"),
        *(
            (f"worst error / bound of `{kind}`", f"{fused[kind]:.3f}")
            for kind in fused
            if "." in kind
        ),
        ("worst error / bound of any node", f"{max(fused.values()):.3f}"),
        ("nats per token, GPU plan", f"{found['nats_per_token_gpu']:.4f}"),
        ("nats per token, CPU plan", f"{found['nats_per_token_cpu']:.4f}"),
        ("greedy choices compared", f"{greedy['positions']:.0f}"),
        ("equal", f"{greedy['equal']:.0f}"),
        (
            "with a top-2 margin above the bound of 0.5, and of these equal",
            f"{greedy['clear']:.0f}, {greedy['clear_equal']:.0f}",
        ),
        (
            "largest margin of a choice that differs",
            f"{greedy['largest_margin_of_a_difference']:.3f}",
        ),
    ]
    return "\n".join(["| figure | value |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


def _put(text: str, name: str, body: str) -> str:
    pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}{body}\n{found[2]}", text)


def _gates(kernels: dict[str, Result]) -> str:
    """Per kernel: cases, gates that failed, the worst ratio of an error to its bound."""
    lines = ["| kernel | cases | failed gates | worst error / bound |", "|---|---|---|---|"]
    for name, one in sorted(kernels.items()):
        lines.append(f"| `{name}` | {one['cases']} | {one['failed']} | {one['worst']:.3f} |")
    return "\n".join(lines)


def _times(run: Result, before: Result) -> str:
    """Per timed case: microseconds, floor, shares, and other implementations.

    Those of `before`, an earlier run, stand in brackets.
    """
    copy_rate, mma_rate = run["copy_rate"], run.get("bf16_rate", MMA_RATE)
    timed = [result for result in run["results"] if "us" in result]
    cells = {
        one["case"]: {name: f"{us:.1f}" for name, us in one.get("baselines", {}).items()}
        | {name: f"({us:.1f})" for name, us in before.get(one["case"], {}).items()}
        for one in timed
    }
    others = list(dict.fromkeys(name for one in timed for name in cells[one["case"]]))
    if not timed:
        return "not timed"
    head = ["case", "us", "floor us", "floor / time", "of copy rate", "TFLOP/s"]
    head += [f"{name} us" for name in others]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in timed:
        us = min(one["us"], one.get("us_again", one["us"]))
        floor = 1e6 * max(one["bytes"] / copy_rate, one.get("flops", 0) / mma_rate)
        rate = one["bytes"] / (us * 1e-6) / copy_rate
        name = one["case"].split("/")[1].removesuffix("_time")
        flops = f"{one['flops'] / us / 1e6:.1f}" if one.get("flops") else "-"
        row = [name, f"{us:.2f}", f"{floor:.2f}", f"{floor / us:.0%}", f"{rate:.0%}", flops]
        row += [cells[one["case"]].get(other, "-") for other in others]
        lines.append("| " + " | ".join(row) + " |")
    rates = f"copies {copy_rate / 1e12:.2f} TB/s, bf16 products {mma_rate / 1e12:.0f} TFLOP/s"
    lines += ["", f"Rates of this run: {rates}."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
