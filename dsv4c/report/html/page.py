"""Puts the parts of the page together: text, style, script and data in one file.

The data is JSON inside the page. A plan may come from anywhere, so nothing of it is ever markup:
`<` is escaped in the JSON, the script sets text only, and the page's content policy admits this
script and this style by their hashes and no request at all.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.resources import files
from string import Template

from dsv4c.report.export_json import ReportView

SCRIPTS = (
    *("text", "model", "ir", "layout", "picture", "map", "details", "tree", "search"),
    *("overview", "graph", "passes", "kernels", "memory", "measured", "main"),
)


def render_page(report: ReportView) -> str:
    """The page of a report."""
    assets = files("dsv4c.report.html") / "assets"
    style = (assets / "style.css").read_text("utf-8")
    script = "\n".join((assets / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    return Template((assets / "page.html").read_text("utf-8")).substitute(
        title=html.escape(f"{report['plan']['model']} on {report['plan']['target']}"),
        policy=f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        data=json_in_html(report),
    )


def json_in_html(document: object) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
