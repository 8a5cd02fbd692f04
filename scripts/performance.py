"""Write what docs/performance.md and README.md show of runs on the GPU, and the roofline pictures.

usage: performance.py [docs/perf]

Times of kernels come from <folder>/times.json (`scripts/gpu_kernels.py --no-check`), or of a kind
from <folder>/<kind>.json if that is there; those of torch.compile from compile.json; gates from
gates.json (`scripts/gate_summary.py`). bench_flash.json and bench_pro.json are documents of
`dsv4c bench`, the first with `--peers`. The pages' text is kept; what stands between
`<!-- begin NAME -->` and `<!-- end NAME -->` is replaced, and every such block has its figures here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import performance_bench  # noqa: E402
import performance_checks  # noqa: E402
import performance_headlines  # noqa: E402
import performance_peers  # noqa: E402
from page_blocks import filled  # noqa: E402

from dsv4c.bench.results import read_bench  # noqa: E402
from dsv4c.bench.roofline import roofline  # noqa: E402

PAGE, README = ROOT / "docs" / "performance.md", ROOT / "README.md"
PICTURES, FIGURES = ROOT / "docs" / "images", ROOT / "docs" / "perf"

Result = dict[str, Any]


def main() -> None:
    """Write the files."""
    for path, text in pages(Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURES).items():
        path.write_text(text, encoding="utf-8")


def pages(folder: Path) -> dict[Path, str]:
    """The text of every file that shows figures of the folder."""
    times, compiled, host = (read(folder, name) for name in ("times", "compile", "host"))
    kinds = {kind: _replaced(folder, kind, run) for kind, run in by_kind(times).items()}
    benches = {name: read_bench(folder / f"{name}.json") for name in ("bench_flash", "bench_pro")}
    runs = performance_headlines.Runs(*benches.values(), kinds, host)
    bodies = {
        "card": f"{times['device']}, torch {times['torch']}",
        "headlines": performance_headlines.table(runs),
        **performance_checks.tables(folder),
        **performance_peers.tables(benches["bench_flash"]),
    }
    for kind, run in kinds.items():
        bodies[f"times {kind}"] = _times(run, compiled["baselines"])
    made: dict[Path, str] = {}
    for name, bench in benches.items():
        bodies |= performance_bench.tables(name, bench)
        made[PICTURES / f"{name}.svg"] = roofline(bench)
    made[PAGE] = filled(PAGE.read_text(encoding="utf-8"), bodies)
    words = {"headlines": performance_headlines.sentences(runs)}
    made[README] = filled(README.read_text(encoding="utf-8"), words)
    return made


def read(folder: Path, name: str) -> Result:
    """A document of the folder."""
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def by_kind(run: Result) -> dict[str, Result]:
    """The run, with the results of each kind alone."""
    kinds: dict[str, list[Result]] = {}
    for result in run["results"]:
        kinds.setdefault(result["case"].split("/")[0], []).append(result)
    return {kind: run | {"results": results} for kind, results in kinds.items()}


def _replaced(folder: Path, kind: str, run: Result) -> Result:
    return read(folder, kind) if (folder / f"{kind}.json").exists() else run


def _times(run: Result, before: Result) -> str:
    """Per timed case: microseconds, floor, shares, and other implementations.

    Those of `before`, an earlier run, stand in brackets.
    """
    copy_rate, mma_rate = run["copy_rate"], run["bf16_rate"]
    timed = [result for result in run["results"] if "us" in result]
    cells = {
        one["case"]: {name: f"{us:.1f}" for name, us in one.get("baselines", {}).items()}
        | {name: f"({us:.1f})" for name, us in before.get(one["case"], {}).items()}
        for one in timed
    }
    others = list(dict.fromkeys(name for one in timed for name in cells[one["case"]]))
    head = ["case", "us", "floor us", "floor / time", "of copy rate", "TFLOP/s"]
    head += [f"{name} us" for name in others]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in timed:
        us = performance_headlines.microseconds(one)
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
