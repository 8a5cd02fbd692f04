"""Plans with packed weights: what is stored, what kernels get, what references see."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from safetensors.torch import load_file, save_file

import dsv4c
from dsv4c import api
from dsv4c.checkpoint.synthetic import synthetic_weights
from dsv4c.codegen.lower import Lower
from dsv4c.codegen.packing import packing
from dsv4c.errors import DsvError
from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.types import WeightType
from dsv4c.ir.weight_codecs import dequantize
from dsv4c.ir.weight_formats import weight_format
from dsv4c.models.deepseek_v4.config import parse_config
from dsv4c.passes.base import PassResult
from dsv4c.plan import manifest
from dsv4c.plan.files import sha256
from dsv4c.plan.forms import Form, unpacked
from dsv4c.source import synthetic_source

RAW = small.small_config(hidden_size=64, o_lora_rank=32, moe_intermediate_size=96)
ATTN, EXPERTS = "layers.0.attn", "layers.0.ffn.experts"
GATE_UP = Form((f"{EXPERTS}.w1", f"{EXPERTS}.w3"), "gate_up_8+scales_128x4")
LATENT = Form((f"{ATTN}.wq_a", f"{ATTN}.wkv"), "rows")
DOWN = Form((f"{EXPERTS}.w2",), "wgmma_64x64")
PACKED = (GATE_UP, LATENT, DOWN)


def compiled(out: Path) -> dsv4c.Plan:
    """A plan of the small model, all linears NVFP4."""
    memory = synthetic_weights(parse_config(RAW), attention="nvfp4")
    return api.compile_source(lambda: synthetic_source(RAW, memory), out)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dsv4c.Plan:
    return compiled(tmp_path_factory.mktemp("plain") / "plan")


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dsv4c.Plan:
    """The same plan, which stores some weights packed, as if kernels asked for it."""

    def some(graph: Graph, operands: object) -> list[Form]:
        covered = {name for form in PACKED for name in form.weights}
        return [*PACKED, *(Form((n,)) for n in graph.weights if n not in covered)]

    monkeypatch.setattr(api, "forms", some)
    return compiled(tmp_path / "packed")


def logits(plan: dsv4c.Plan) -> torch.Tensor:
    session = plan.session(1, 16)
    return session.prefill(session.open(), [3, 4, 5, 6])


def same(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(a, b, strict=True))


def test_references_unpack(plain: dsv4c.Plan, packed: dsv4c.Plan) -> None:
    plan = dsv4c.load_plan(packed.path)
    assert plan.manifest == packed.manifest
    found = [Form(tuple(one.weights), one.packing) for one in plan.manifest.packed]
    assert found == list(PACKED)
    assert plan.manifest.weights[f"{EXPERTS}.w1"].components == []
    for name, weight in plain.weights().items():
        assert same(plan.weights()[name].components, weight.components), name
    assert torch.equal(logits(plan), logits(plain))


def test_experts_are_packed_one_by_one(plain: dsv4c.Plan, packed: dsv4c.Plan) -> None:
    entry = packed.manifest.packed[0]
    spec = weight_format("nvfp4")
    for number, (part, component) in enumerate(
        zip(spec.component_names, entry.components, strict=True)
    ):
        stored = load_file(packed.path / component.file)[component.tensor]
        parts = [plain.weights()[name].components[number] for name in GATE_UP.weights]
        chosen = packing(entry.packing)
        expected = [chosen.pack("nvfp4", part, [one[e] for one in parts]) for e in range(6)]
        assert torch.equal(stored, torch.stack(expected))
        assert component.shape == [6, *expected[0].shape]


def test_a_plan_without_packing_does_not_mention_it(plain: dsv4c.Plan) -> None:
    read = json.loads((plain.path / "manifest.json").read_bytes())
    assert "packed" not in read
    files = {part.file for one in plain.manifest.weights.values() for part in one.components}
    for name in files:
        assert plain.manifest.files[name] == sha256(plain.path / name)
        again = plain.path.parent / "again.safetensors"
        save_file(load_file(plain.path / name), again)
        assert again.read_bytes() == (plain.path / name).read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(packing="tiles"),
        lambda entry: entry.update(weights=["embed"]),
        lambda entry: entry.update(weights=["nothing", "norm"]),
        lambda entry: entry["components"].pop(),
        lambda entry: entry["components"][0].update(tensor="embed/weight"),
    ],
)
def test_an_edited_entry_is_found(
    packed: dsv4c.Plan, change: Callable[[dict[str, Any]], object]
) -> None:
    path = packed.path / "manifest.json"
    read = json.loads(path.read_bytes())
    change(read["packed"][0])
    path.write_text(json.dumps(read))
    with pytest.raises(DsvError) as caught:
        dsv4c.load_plan(packed.path).session(1, 8)
    assert caught.value.code == "DSV231"


FIRST, SECOND = f"{ATTN}.wo_b", "layers.1.attn.wo_b"
TILES = "scales_128x4+wgmma_64x64"


class Kernels:
    """Stand-ins for kernels: two nodes of a plan run `f` and `g`, which take packed weights.

    `f` takes layer 0's wo_b in tiles, `g` layer 1's as it is.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: dict[str, tuple[torch.Tensor, ...]] = {}
        lower = Lower.run

        def run(one: Lower, graph: Graph) -> PassResult:
            result = lower(one, graph)
            nodes = [self._named(node) for node in result.graph.nodes]
            return replace(result, graph=result.graph.with_nodes(nodes))

        def build(work: Path, *_: object) -> list[manifest.Kernel]:
            (work / "kernels").mkdir()
            (work / api.LIBRARY).write_bytes(b"")
            tiles = [manifest.PackedOperand([1], TILES)]
            names = {"f": tiles, "g": []}
            rest = ("test", "sm_90a", {}, "", [], 0, 0, 0)
            return [manifest.Kernel(name, *rest, packed=packed) for name, packed in names.items()]

        monkeypatch.setattr(Lower, "run", run)
        monkeypatch.setattr(api, "_build", build)

    def _named(self, node: Node) -> Node:
        impl = {FIRST: "f", SECOND: "g"}.get(node.inputs[1]) if len(node.inputs) > 1 else None
        return replace(node, impl=impl) if impl else node

    def load(self, plan: dsv4c.Plan) -> None:
        plan._kernels = {name: self._kernel(name, plan) for name in "fg"}  # pyright: ignore

    def _kernel(self, name: str, plan: dsv4c.Plan) -> Callable[..., None]:
        type_ = plan.graph.types[FIRST if name == "f" else SECOND]
        assert isinstance(type_, WeightType)

        def kernel(x: torch.Tensor, *rest: torch.Tensor) -> None:
            *parts, y = rest
            self.given[name] = tuple(parts)
            form = Form((FIRST,), TILES)
            if name == "f":
                parts = list(unpacked(form, [type_], parts, 0))
            w = dequantize(type_.format, parts, type_.dims)
            y.copy_(x.float() @ w.T)

        return kernel


def test_kernels_get_what_they_declare(
    plain: dsv4c.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = Kernels(monkeypatch)
    made = compiled(tmp_path / "plan")
    assert [(one.weights, one.packing) for one in made.manifest.packed] == [([FIRST], TILES)]
    assert made.manifest.weights[FIRST].components == []
    assert len(made.manifest.weights[SECOND].components) == 3
    plan = dsv4c.load_plan(made.path)
    kernels.load(plan)
    assert torch.allclose(logits(plan), logits(plain), atol=1e-2)
    stored = plain.weights()[FIRST].components
    chosen = packing(TILES)
    names = weight_format("nvfp4").component_names
    expected = [chosen.pack("nvfp4", n, [t]) for n, t in zip(names, stored, strict=True)]
    assert same(kernels.given["f"], expected)
    assert same(kernels.given["g"], plain.weights()[SECOND].components)
