"""Tables of docs/performance.md from runs of the other scripts: gates, checks, host time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def tables(folder: Path) -> dict[str, str]:
    """The bodies of the page's blocks by name."""
    found = {
        f"gates {kind}": _gates(kernels)
        for kind, kernels in _read(folder, "gates")["kinds"].items()
    }
    return found | {
        "plan": _plan(_read(folder, "gpu_text")),
        "decode": _decode(_read(folder, "decode")),
        "layers": _layers(_read(folder, "layers")),
        "host": _host(_read(folder, "host")),
        "compile": _compile(_read(folder, "compile_times")),
    }


def _read(folder: Path, name: str) -> Result:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def _gates(kernels: dict[str, Result]) -> str:
    """Per kernel: cases, gates that failed, the worst ratio of an error to its bound."""
    lines = ["| kernel | cases | failed gates | worst error / bound |", "|---|---|---|---|"]
    for name, one in sorted(kernels.items()):
        lines.append(f"| `{name}` | {one['cases']} | {one['failed']} | {one['worst']:.3f} |")
    return "\n".join(lines)


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


def _host(found: Result) -> str:
    """Host time of a decode step, by number of sequences."""
    lines = [
        f"{found['layers']} layers, {found['kernels']} kernels.",
        "",
        "| sequences | whole call us | launch us | graph replay us |",
        "|---|---|---|---|",
    ]
    for step in found["steps"]:
        cells = (f"{step[key]['us']:.1f}" for key in ("call", "launch", "replay"))
        lines.append(f"| {step['sequences']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _compile(found: Result) -> str:
    """Seconds of `scripts/compile_times.py`: an empty kernel cache, a full one, loading."""
    lines = [
        f"{found['cores']} cores, no GPU.",
        "",
        "| plan | kernels | cold: kernels s | cold: all s | warm: kernels s | warm: all s | load s |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, one in found["models"].items():
        cells = [f"{one[name][of]:.1f}" for name in ("cold", "warm") for of in ("kernels", "total")]
        row = [model, str(one["load"]["kernels"]), *cells, f"{one['load']['seconds']:.1f}"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)
