"""The roofline picture of a bench: an SVG that is readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from dsv4c.bench.compare import step_name
from dsv4c.bench.results import Bench, Card, KernelRow

_WIDTH, _HEIGHT = 980, 600
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 250, 56, 62
# Families of kernels that are drawn in one colour, and their kinds.
_GROUPS = {
    "linears": ("linears",),
    "attention": ("sparse_attention", "qnorm_rope_kv_insert", "inverse_rope_wo_a"),
    "compressor, indexer": ("latent_compress", "index_scores", "topk_entries"),
    "experts": ("router", "moe_gate_up", "moe_down"),
    "hyper-connections": ("mhc_seam", "mhc_first", "mhc_head"),
    "others": (),
}
_COLOURS = ("#2f7ed8", "#d9730d", "#2a9d6f", "#a55bd1", "#d6455d", "#80868f")
# Corners of the shapes of the second to the fifth step, and the size that has a circle's area.
_SHAPES = (
    (((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)), 0.89),
    (((0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)), 1.25),
    (((0.0, -1.15), (1.0, 0.58), (-1.0, 0.58)), 1.35),
    (((0.0, 1.15), (1.0, -0.58), (-1.0, -0.58)), 1.35),
)
_STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.title { font-size: 15px; font-weight: 600; }
.small { font-size: 11px; fill: #57606a; }
.grid { stroke: #d0d7de; stroke-width: 1; }
.axis { stroke: #57606a; stroke-width: 1.2; fill: none; }
.roof { stroke: #24292f; stroke-width: 1.8; fill: none; }
.point { fill-opacity: 0.55; stroke-width: 1.4; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .small { fill: #9da7b3; }
  .grid { stroke: #30363d; }
  .axis { stroke: #9da7b3; }
  .roof { stroke: #e6edf3; }
}"""


@dataclass(frozen=True)
class _Point:
    """A kernel of one step, at its FLOPs per byte and its TFLOP/s."""

    row: KernelRow
    step: int
    intensity: float
    rate: float


@dataclass(frozen=True)
class _Axes:
    """Whole decades in each direction."""

    x: tuple[int, int]
    y: tuple[int, int]

    def at(self, intensity: float, rate: float) -> tuple[float, float]:
        """Place of a point, in pixels."""
        return self.across(intensity), self.up(rate)

    def across(self, intensity: float) -> float:
        inner = _WIDTH - _LEFT - _RIGHT
        return _LEFT + inner * (math.log10(intensity) - self.x[0]) / (self.x[1] - self.x[0])

    def up(self, rate: float) -> float:
        inner = _HEIGHT - _TOP - _BOTTOM
        share = (math.log10(rate) - self.y[0]) / (self.y[1] - self.y[0])
        return _HEIGHT - _BOTTOM - inner * share


def roofline(found: Bench) -> str:
    """The picture: each kernel of each step a point, by FLOPs per byte and TFLOP/s, log-log.

    Kernels without FLOPs have no place in it.
    """
    points = [
        _Point(row, number, row.flops / row.bytes, row.flops / row.time.us / 1e6)
        for number, step in enumerate(found.steps)
        for row in step.kernels
        if row.flops > 0 and row.bytes > 0
    ]
    axes = _axes(points, found.card)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" role="img">',
        f"<title>Roofline of {escape(found.plan)} on {escape(found.card.name)}</title>",
        f"<style>\n{_STYLE}\n</style>",
        _text(_LEFT, 24, f"Kernels of {found.plan} on {found.card.name}", "title"),
        _text(_LEFT, 42, "area: share of the step's time; tooltips name the kernels", "small"),
        *_grid(axes),
        *_roofs(axes, found.card),
        *(_mark(axes, point, _share(found, point)) for point in points),
        *_legend(found),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _axes(points: Sequence[_Point], card: Card) -> _Axes:
    knee = max(card.fp8 or 0.0, card.bf16) / card.copy
    across = [one.intensity for one in points] + [1.0, knee * 4]
    up = [one.rate for one in points] + [1.0, (card.fp8 or card.bf16) / 1e12]
    return _Axes(_decades(across), _decades(up))


def _decades(values: Sequence[float]) -> tuple[int, int]:
    return math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))


def _grid(axes: _Axes) -> Iterator[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for decade in range(axes.x[0], axes.x[1] + 1):
        x = axes.across(10.0**decade)
        yield _line(x, _TOP, x, bottom, "grid")
        yield _text(x, bottom + 18, _power(decade), "", "middle")
    for decade in range(axes.y[0], axes.y[1] + 1):
        y = axes.up(10.0**decade)
        yield _line(_LEFT, y, right, y, "grid")
        yield _text(_LEFT - 8, y + 4, _power(decade), "", "end")
    yield f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>'
    yield _text((_LEFT + right) / 2, bottom + 44, "FLOPs per byte that must move", "", "middle")
    middle = (_TOP + bottom) / 2
    yield (
        f'<text x="20" y="{middle:.1f}" text-anchor="middle" '
        f'transform="rotate(-90 20 {middle:.1f})">TFLOP/s</text>'
    )


def _power(decade: int) -> str:
    return f"{10**decade:,}" if decade >= 0 else f"{10.0**decade:.{-decade}f}"


def _roofs(axes: _Axes, card: Card) -> Iterator[str]:
    """The slope of the copy rate, up to the ceilings of the products."""
    edge = 10.0 ** axes.x[1]
    bottom = 10.0 ** axes.y[0]
    top = max(card.bf16, card.fp8 or 0.0)
    first = max(10.0 ** axes.x[0], bottom * 1e12 / card.copy)
    begin = axes.at(first, first * card.copy / 1e12)
    end = axes.at(top / card.copy, top / 1e12)
    yield _line(*begin, *end, "roof")
    slope = math.degrees(math.atan2(end[1] - begin[1], end[0] - begin[0]))
    at = axes.at(first * 3, first * 3 * card.copy / 1e12)
    yield (
        f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" dy="-7" '
        f'transform="rotate({slope:.1f} {at[0]:.1f} {at[1]:.1f})">'
        f"copy {card.copy / 1e12:.2f} TB/s</text>"
    )
    for name, rate in (("bf16", card.bf16), ("fp8", card.fp8)):
        if rate is None:
            continue
        x, y = axes.at(rate / card.copy, rate / 1e12)
        yield _line(x, y, axes.across(edge), y, "roof")
        label = f"{name} {rate / 1e12:,.0f}"
        yield _text(axes.across(edge) + 6, y + 4, label, "")


def _share(found: Bench, point: _Point) -> float:
    step = found.steps[point.step]
    whole = sum(one.time.us * one.nodes for one in step.kernels)
    return point.row.time.us * point.row.nodes / whole


def _mark(axes: _Axes, point: _Point, share: float) -> str:
    row, colour = point.row, _colour(point.row.kind)
    tip = f"{row.kernel}: {row.time.us:.2f} us, {row.share:.0%} of its floor"
    x, y = axes.at(point.intensity, point.rate)
    shape = _shape(point.step, x, y, 3.0 + 13.0 * math.sqrt(share))
    return (
        f'<g class="point" fill="{colour}" stroke="{colour}">'
        f"<title>{escape(tip)}</title>{shape}</g>"
    )


def _shape(number: int, x: float, y: float, radius: float) -> str:
    """A circle, square, diamond or triangle around a place, of one area."""
    if number % 5 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'
    corners, size = _SHAPES[number % 5 - 1]
    places = " ".join(
        f"{x + size * radius * a:.1f},{y + size * radius * b:.1f}" for a, b in corners
    )
    return f'<polygon points="{places}"/>'


def _colour(kind: str) -> str:
    groups = list(_GROUPS.values())
    place = next((i for i, kinds in enumerate(groups) if kind in kinds), len(groups) - 1)
    return _COLOURS[place]


def _legend(found: Bench) -> Iterator[str]:
    x, y = _WIDTH - _RIGHT + 92, _TOP + 150
    for name, colour in zip(_GROUPS, _COLOURS, strict=True):
        yield f'<circle class="point" cx="{x}" cy="{y - 4}" r="6" fill="{colour}" stroke="{colour}"/>'
        yield _text(x + 14, y, name, "")
        y += 22
    y += 14
    for number, step in enumerate(found.steps):
        shape = _shape(number, x, y - 4, 6).replace(" ", ' class="axis" ', 1)
        yield shape
        yield _text(x + 14, y, step_name(step), "")
        y += 22


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    name = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{name}>{escape(text)}</text>'


def _line(x: float, y: float, to_x: float, to_y: float, style: str) -> str:
    return f'<line class="{style}" x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"/>'
