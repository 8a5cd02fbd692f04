"""The page: what stands in the file, and what it does in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from copy import deepcopy
from pathlib import Path
from typing import cast

import pytest
from browser import Browser

from dsv4c.report.export_json import ReportView
from dsv4c.report.html.page import json_in_html, render_page

MOST_BYTES = 15_000_000
HOSTILE = '</script><img src="https://example.com/x" onerror="window.hacked=1"><!--'


def hostile(report: ReportView) -> ReportView:
    """The report with markup in every name that a plan chooses."""
    text = json.dumps(report)
    for name in ("L1.attn.o", "wkv", "linear"):
        text = text.replace(name, name + json.dumps(HOSTILE)[1:-1])
    changed = cast(ReportView, json.loads(text))
    changed["plan"]["model"] = HOSTILE
    return changed


def test_data_cannot_end_its_element() -> None:
    text = json_in_html({"a": HOSTILE, "b": "\u2028 é"})
    assert "<" not in text
    assert json.loads(text) == {"a": HOSTILE, "b": "\u2028 é"}


def test_numbers_that_json_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        json_in_html({"a": float("nan")})


def test_the_policy_admits_this_script_and_style_only(small_report: ReportView) -> None:
    page = render_page(hostile(small_report))
    policy = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    (script,) = re.findall(r'<script type="module">(.*?)</script>', page, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()) for one in (script, style)]
    assert policy == [
        f"default-src 'none'; script-src 'sha256-{digests[0].decode()}'; "
        f"style-src 'sha256-{digests[1].decode()}'; base-uri 'none'; form-action 'none'"
    ]
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert json.loads(data) == hostile(small_report)
    assert not re.findall(r'(?:src|href)="(?!#)', page.replace(data, ""))
    assert "innerHTML" not in script


def write(folder: Path, report: ReportView) -> Path:
    path = folder / "report.html"
    path.write_text(render_page(report), encoding="utf-8")
    return path


def check(page: Browser) -> None:
    """Nothing left the page and nothing went wrong in it."""
    assert [url for url in page.requests if not url.startswith("file:")] == []
    assert page.errors == []


@pytest.mark.slow
def test_pro_in_a_browser(page: Browser, pro_report: ReportView, tmp_path: Path) -> None:
    path = write(tmp_path, pro_report)
    assert path.stat().st_size <= MOST_BYTES
    assert page.open(path) < 15
    assert page.run("document.querySelectorAll('#tree details').length") == 63
    page.click("#views a[data-view=graph]")
    page.wait("document.querySelectorAll('.box').length === 63")
    page.wait("document.querySelectorAll('.box .far').length === 63")
    page.run("location.hash = '#/graph/layer/42'")
    page.wait("document.querySelector('.picture.near .node')")
    assert page.run("document.querySelectorAll('.group').length") < 12  # the others are not drawn
    page.click("#query")
    page.type("L42 inverse_rope")
    page.wait("document.querySelector('#hits a')?.textContent.includes('L42.attn.z')")
    page.press("Enter")
    page.wait("document.querySelector('#details h2')?.textContent === 'L42.attn.z'")
    assert "inverse_rope_wo_a_fp8_128_g16" in page.run("details.textContent")
    check(page)


def test_small_in_a_browser(page: Browser, small_report: ReportView, tmp_path: Path) -> None:
    page.open(write(tmp_path, small_report))
    for view in ("overview", "graph", "passes", "kernels", "memory", "measured"):
        page.click(f"#views a[data-view={view}]")
        page.wait(f"location.hash === '#/{view}' && main.childElementCount > 0")
    page.run("location.hash = '#/graph/node/L1.attn.o'")
    page.wait("document.querySelector('.node.selected')")
    page.click(".node.selected")
    page.run("document.querySelector('.picture').focus()")
    page.press("ArrowDown")
    page.wait("document.querySelector('#details h2')?.textContent === 'L1.attn.z'")
    page.click("#tree details[data-group=L2] summary")
    page.wait("document.querySelector('#tree details[data-group=L2] .leaf')")
    check(page)


def test_the_slider(page: Browser, small_report: ReportView, tmp_path: Path) -> None:
    page.open(write(tmp_path, small_report))
    page.run("location.hash = '#/passes/6'")
    page.wait("main.querySelector('h2')?.textContent === '6. fuse_mhc_head'")
    page.run("document.querySelector('#pass').focus()")
    page.press("ArrowRight")
    page.wait("main.querySelector('h2').textContent === '7. fuse_qnorm_rope_quant'")
    rows = "[...main.querySelectorAll('tbody td code')].map((cell) => cell.textContent)"
    assert page.run(rows) == [
        "head_norm + rope + rms_norm + rope + insert_rows + rope + hadamard + fake_quant → "
        "fused.qnorm_rope_kv_insert",
        "head_norm + rope + rms_norm + rope + insert_rows → fused.qnorm_rope_kv_insert",
    ]
    marked = "['Before', 'After'].map((_, at) => main.querySelectorAll('figure')[at].querySelectorAll('.node.fused').length)"
    assert page.run(marked) == [8, 1]
    page.press("ArrowRight")  # the slider has kept the focus
    page.wait("main.querySelector('h2').textContent === '8. fuse_latent_compress'")
    check(page)


def test_names_are_text(page: Browser, small_report: ReportView, tmp_path: Path) -> None:
    page.open(write(tmp_path, hostile(deepcopy(small_report))))
    for view in ("graph/layer/1", "passes/4/L1", "kernels", "memory", "overview"):
        page.run(f"location.hash = '#/{view}'")
        page.wait("main.childElementCount > 0")
    page.click("#query")
    page.type("L1.attn.o")
    page.wait("document.querySelector('#hits a')")
    page.press("Enter")
    page.wait("document.querySelector('#details h2')?.textContent.includes('<img')")
    assert page.run("window.hacked") is None
    assert page.run("document.images.length") == 0
    check(page)
