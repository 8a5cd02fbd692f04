"""Pages show the figures that are kept beside them, and nothing else stands in their blocks."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module


def test_figures_of_performance(script: Callable[[str], Any]) -> None:
    performance = script("performance")
    made: dict[Path, str] = performance.pages(ROOT / "docs" / "perf")
    assert len(made) == 4
    again = "python scripts/performance.py makes them anew"
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: {again}"


def test_headlines_are_figures_of_the_runs(script: Callable[[str], Any]) -> None:
    """Some lines anew from the raw documents, met or not."""
    performance = script("performance")
    kept = ROOT / "docs" / "perf"
    bench, topk = (
        json.loads((kept / f"{x}.json").read_bytes()) for x in ("bench_flash", "topk_entries")
    )
    lines = performance.pages(kept)[performance.PAGE].splitlines()

    def line(begin: str) -> str:
        return next(one for one in lines if one.startswith(f"| {begin}"))

    for step in bench["steps"]:
        for words, count, aim in (("one sequence", 1, 1.6), ("64 sequences", 64, 1.3)):
            if step["sequences"] == step["tokens"] == count:
                one = next(layer for layer in step["layers"] if layer["kind"] == "csa")
                ratio = one["time"]["us"] / one["floor_us"]
                found = line(f"Flash, CSA layer, 32,768 tokens of context, {words}")
                assert f"| {ratio:.2f} (" in found
                assert found.endswith("| yes |" if ratio <= aim else "| no |")
    (case,) = (x for x in topk["results"] if x["case"] == "topk_entries/t1_k512_e32768_time")
    us = min(case["us"], case["us_again"])
    assert line("top-k of 32,768 entries, one token").split(" | ")[1] == f"{us:.1f} us"
    (insert,) = (x for x in bench["peers"] if x["case"] == "64 heads, T = 64")
    ratio = insert["peer_time"]["us"] / insert["time"]["us"]
    assert f"| {ratio:.2f}, " in line("the same, 64, 256 tokens")


def test_figures_of_the_sanitizer(script: Callable[[str], Any]) -> None:
    page = script("sanitizer_page")
    kept = json.loads((ROOT / "docs" / "sanitizer.json").read_text(encoding="utf-8"))
    shown = (ROOT / "docs" / "sanitizer.md").read_text(encoding="utf-8")
    assert shown == page.page(kept), "python scripts/sanitizer_page.py makes it anew"


def test_the_sanitizers_page_says_what_has_not_run(script: Callable[[str], Any]) -> None:
    """Every case that is chosen today, and which results are of another text of their kernel."""
    page, build = script("sanitizer_page"), script("sanitize_build")
    kept = json.loads(page.KEPT.read_text(encoding="utf-8"))
    today = copy.deepcopy(kept)
    page.compare(today, build.texts(build.sources(build.every_kind())))
    assert kept == today, "python scripts/sanitizer_page.py makes it anew"


def test_blocks(script: Callable[[str], Any]) -> None:
    filled = script("page_blocks").filled
    text = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n<!-- begin x y -->\n<!-- end x y -->\n"
    assert filled(text, {"x": "1\n2", "x y": "3"}) == (
        "a\n<!-- begin x -->\n1\n2\n<!-- end x -->\nb\n<!-- begin x y -->\n3\n<!-- end x y -->\n"
    )
    with pytest.raises(LookupError, match=r"differ: x y, z$"):
        filled(text, {"x": "", "z": ""})
    with pytest.raises(LookupError, match=r"differ: x y$"):
        filled(text, {"x": ""})
