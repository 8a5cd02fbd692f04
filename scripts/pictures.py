"""Pictures of the report of a plan, taken in a headless Chromium, for the documentation.

usage: pictures.py PLAN [--layer 1] [--out docs/images]

Writes <out>/report-graph.png (one layer of the fused graph) and <out>/report-passes.png (one pass,
before and after).
"""

from __future__ import annotations

import argparse
import base64
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "models")]

from browser import Browser  # noqa: E402

from dsv4c.plan.plan import Plan  # noqa: E402
from dsv4c.report.export_json import report_view  # noqa: E402
from dsv4c.report.html.page import render_page  # noqa: E402


def main() -> None:
    """Open the page, wait until it has drawn, take the pictures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=Path)
    parser.add_argument("--layer", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    given = parser.parse_args()
    plan = Plan.load(given.plan, check_weights=False)
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(render_page(report_view(plan)), encoding="utf-8")
        page = Browser(Path(folder) / "profile")
        page.open(path)
        page.run(f"location.hash = '#/graph/layer/{given.layer}'")
        page.wait("document.querySelector('.picture.near .node')")
        take(page, given.out / "report-graph.png")
        page.run("location.hash = '#/passes/4'")
        page.wait("main.querySelector('figure')")
        take(page, given.out / "report-passes.png")
        page.close()


def take(page: Browser, path: Path) -> None:
    """One picture of the window."""
    made = page.send("Page.captureScreenshot", format="png")
    path.write_bytes(base64.b64decode(made["data"]))


if __name__ == "__main__":
    main()
