"""Write the tables of docs/sanitizer.md from runs of scripts/gpu_sanitize.py.

usage: sanitizer_page.py RESULTS.json ...

Later results replace earlier ones, kind by kind. They are kept in docs/sanitizer.json; what stands
between `<!-- begin NAME -->` and `<!-- end NAME -->` in the page is replaced.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from page_blocks import filled

ROOT = Path(__file__).resolve().parent.parent
PAGE, KEPT = ROOT / "docs" / "sanitizer.md", ROOT / "docs" / "sanitizer.json"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck", "late")
Facts = dict[str, dict[str, Any]]


def main() -> None:
    """Merge the results and fill in the page."""
    kept: dict[str, dict[str, Facts]] = {"planted": {}, "cases": {}}
    if KEPT.exists():
        kept = json.loads(KEPT.read_text(encoding="utf-8"))
    for path in sys.argv[1:]:
        for run in json.loads(Path(path).read_text(encoding="utf-8")):
            merge(kept, run)
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(kept), encoding="utf-8")


def page(kept: dict[str, dict[str, Facts]]) -> str:
    """The page's text with these results."""
    bodies = {"planted": planted(kept["planted"]), "cases": cases(kept["cases"])}
    return filled(PAGE.read_text(encoding="utf-8"), bodies)


def merge(kept: dict[str, dict[str, Facts]], run: dict[str, Any]) -> None:
    """Take over a tool's run: of every kind that it has, all cases."""
    tool, found = run["tool"], dict(run["cases"])
    if run["what"] == "faults":
        kept["planted"][tool] = found
        return
    if tool == "late":
        kept["planted"][tool] = {name: found.pop(name) for name in ("waiting", "unwaiting")}
    into = kept["cases"].setdefault(tool, {})
    kinds = {name.partition("/")[0] for name in found}
    for name in [name for name in into if name.partition("/")[0] in kinds]:
        del into[name]
    into.update({name: {"findings": facts["findings"]} for name, facts in found.items()})


def planted(found: dict[str, Facts]) -> str:
    """What each tool reports of every planted kernel."""
    tools = [tool for tool in TOOLS if tool in found and tool != "late"]
    lines = ["| kernel | " + " | ".join(tools) + " |", "|---" * (len(tools) + 1) + "|"]
    for name in found[tools[0]]:
        counts = [found[tool].get(name, {"findings": "-"})["findings"] for tool in tools]
        lines.append(f"| {name} | " + " | ".join(str(count or ".") for count in counts) + " |")
    if "late" in found:
        found_late = ", ".join(f"{name} {one['findings']}" for name, one in found["late"].items())
        lines += ["", f"`late`: {found_late}."]
    return "\n".join(lines)


def cases(found: dict[str, Facts]) -> str:
    """Cases and findings by kind and tool."""
    tools = [tool for tool in TOOLS if tool in found]
    kinds = sorted({name.partition("/")[0] for tool in tools for name in found[tool]})
    lines = ["| kind | " + " | ".join(tools) + " |", "|---" * (len(tools) + 1) + "|"]
    for kind in kinds:
        row = []
        for tool in tools:
            one = [f["findings"] for n, f in found[tool].items() if n.partition("/")[0] == kind]
            row.append(f"{sum(map(bool, one))} of {len(one)}" if one else "-")
        lines.append(f"| {kind} | " + " | ".join(row) + " |")
    totals = [[f["findings"] for f in found[tool].values()] for tool in tools]
    row = [f"{sum(map(bool, one))} of {len(one)}" for one in totals]
    return "\n".join([*lines, "| all | " + " | ".join(row) + " |"])


if __name__ == "__main__":
    main()
