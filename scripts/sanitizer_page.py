"""Write the tables of docs/sanitizer.md from runs of scripts/gpu_sanitize.py.

usage: sanitizer_page.py [--anew] RESULTS.json ...

Runs are put together case by case and tool by tool: a later result takes the place of an earlier one,
unless the later run was cut before that case came. With --anew, nothing that was kept from before
counts. Everything is kept in docs/sanitizer.json, with the cases that never ran and those whose kernel
has another text today; what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` in the page
is replaced.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from page_blocks import filled
from sanitize_tasks import KEPT, ROOT

PAGE = ROOT / "docs" / "sanitizer.md"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck", "late")
Facts = dict[str, dict[str, Any]]
Kept = dict[str, dict[str, Facts]]


def main() -> None:
    """Merge the results and fill in the page."""
    from sanitize_build import every_kind, sources, texts

    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--anew", action="store_true")
    given = parser.parse_args()
    kept: Kept = {"planted": {}, "cases": {}}
    if KEPT.exists() and not given.anew:
        kept = json.loads(KEPT.read_text(encoding="utf-8"))
    for path in given.runs:
        for run in json.loads(path.read_text(encoding="utf-8")):
            merge(kept, run)
    compare(kept, texts(sources(every_kind())))
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(kept), encoding="utf-8")


def page(kept: Kept) -> str:
    """The page's text with these results."""
    bodies = {"planted": planted(kept["planted"]), "cases": cases(kept["cases"])}
    return filled(PAGE.read_text(encoding="utf-8"), bodies)


def merge(kept: Kept, run: dict[str, Any]) -> None:
    """Take over a tool's run, but no case that was cut where there is a result."""
    into = kept["planted" if run["what"] == "faults" else "cases"].setdefault(run["tool"], {})
    for name, facts in run["cases"].items():
        if "cut" not in facts or "cut" in into.get(name, facts):
            into[name] = facts


def compare(kept: Kept, current: dict[str, dict[str, str]]) -> None:
    """Keep today's cases only: those that never ran are cut, those of another text old."""
    from sanitize_child import chosen

    for tool in TOOLS:
        facts, into = kept["cases"].get(tool, {}), dict[str, dict[str, Any]]()
        for name, (library, case) in sorted(chosen([], tool).items()):
            into[name] = facts.get(name, {"cut": "never run"})
            into[name].pop("old", None)
            if into[name].get("text", text := current[library][case.kernel]) != text:
                into[name]["old"] = True
        kept["cases"][tool] = into


def planted(found: dict[str, Facts]) -> str:
    """What each tool reports of every planted kernel."""
    tools = [tool for tool in TOOLS if tool in found and tool != "late"]
    lines = ["| kernel | " + " | ".join(tools) + " |", "|---" * (len(tools) + 1) + "|"]
    for name in found[tools[0]]:
        counts = [found[tool].get(name, {}).get("findings", "-") for tool in tools]
        lines.append(f"| {name} | " + " | ".join(str(count or ".") for count in counts) + " |")
    if "late" in found:
        late = ", ".join(
            f"{name} {one.get('findings', '-')}" for name, one in found["late"].items()
        )
        lines += ["", f"`late`: {late}."]
    return "\n".join(lines)


def cases(found: dict[str, Facts]) -> str:
    """Cases with findings, of those that ran, by kind and tool."""
    tools = [tool for tool in TOOLS if tool in found]
    kinds = sorted({name.partition("/")[0] for tool in tools for name in found[tool]})
    lines = ["| kind | " + " | ".join(tools) + " |", "|---" * (len(tools) + 1) + "|"]
    for kind in [*kinds, "all"]:
        row = [
            cell([f for n, f in found[tool].items() if kind in ("all", n.partition("/")[0])])
            for tool in tools
        ]
        lines.append(f"| {kind} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def cell(facts: list[dict[str, Any]]) -> str:
    """Such as `0 of 21`, `1 of 20 (3 before a change, 1 not run)`; `-` for no case."""
    ran = [one for one in facts if "cut" not in one]
    bad = sum(one["findings"] > 0 for one in ran)
    notes = (
        (sum("old" in one for one in ran), "before a change"),
        (len(facts) - len(ran), "not run"),
    )
    note = ", ".join(f"{count} {words}" for count, words in notes if count)
    return f"{bad} of {len(ran)}" + (f" ({note})" if note else "") if facts else "-"


if __name__ == "__main__":
    main()
