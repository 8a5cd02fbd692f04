"""The roofline picture, word for word, and where its points are."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import msgspec
import pytest

from dsv4c.bench.results import Bench
from dsv4c.bench.roofline import roofline

SVG = "{http://www.w3.org/2000/svg}"
replace = msgspec.structs.replace


def test_the_picture(run: Bench, golden: Callable[[str, str], None]) -> None:
    golden("bench/roofline.svg", roofline(run))


def test_points_and_lines(run: Bench) -> None:
    root = ElementTree.fromstring(roofline(run))
    points = [one for one in root.iter(f"{SVG}g") if one.get("class") == "point"]
    # topk_entries has no FLOPs: no place on a logarithmic axis
    assert len(points) == 2 * len(run.steps)
    tips = [one.findtext(f"{SVG}title") for one in points]
    assert tips[0] == "linears_a: 12.00 us, 83% of its floor"
    texts = [one.text for one in root.iter(f"{SVG}text")]
    for text in ("copy 3.00 TB/s", "bf16 750", "fp8 1,400", "FLOPs per byte that must move"):
        assert text in texts
    for text in ("B = 1, 4095 tokens", "prefill of 4096", "experts"):
        assert text in texts


def test_a_kernel_at_the_copy_rate_lies_on_the_line(run: Bench) -> None:
    one = run.steps[0].kernels[0]
    full = replace(one, time=replace(one.time, us=one.floor_us))
    made = replace(run, steps=[replace(run.steps[0], kernels=[full])])
    root = ElementTree.fromstring(roofline(made))
    line = next(one for one in root.iter(f"{SVG}line") if one.get("class") == "roof")
    x1, y1, x2, y2 = (float(str(line.get(key))) for key in ("x1", "y1", "x2", "y2"))
    (point,) = (one for one in root.iter(f"{SVG}g") if one.get("class") == "point")
    circle = point.find(f"{SVG}circle")
    assert circle is not None
    x, y = (float(str(circle.get(key))) for key in ("cx", "cy"))
    assert y == pytest.approx(y1 + (x - x1) * (y2 - y1) / (x2 - x1), abs=0.2)


def test_names_are_escaped(run: Bench) -> None:
    text = roofline(replace(run, plan="<b>&"))
    assert "<b>" not in text
    assert ElementTree.fromstring(text).findtext(f"{SVG}title") == "Roofline of <b>& on H100"
    assert not re.search(r"(href|url\(|script)", text)


def test_a_card_without_fp8_and_no_steps(run: Bench) -> None:
    texts = roofline(replace(run, steps=[], card=replace(run.card, fp8=None)))
    assert "bf16 750" in texts
    assert "fp8" not in texts
