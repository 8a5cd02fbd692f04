"""IR files and kernels that a person edited: compiled again, marked, refused where they do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import dsv4c
from dsv4c import api
from dsv4c.cli import main
from dsv4c.codegen.cache import META, CacheEntry
from dsv4c.codegen.kernel import KernelSource
from dsv4c.codegen.resources import Resources
from dsv4c.edits import Edits, edited_sources
from dsv4c.errors import DsvError
from dsv4c.ir.text import parse
from dsv4c.pipeline import largest_step, pipeline
from dsv4c.plan.plan import Plan

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-dsv4-nvfp4"


def logits(plan: Plan) -> torch.Tensor:
    session = plan.session(1, 16)
    return session.prefill(session.open(), [3, 4, 5, 6], return_logits="all")


def stage(compiled: Path, name: str) -> Path:
    return next(compiled.glob(f"ir/*_{name}.ir"))


def edited(path: Path, out: Path, old: str, new: str, count: int = 1) -> Path:
    text = path.read_text(encoding="utf-8")
    assert old in text
    out.write_text(text.replace(old, new, count), encoding="utf-8")
    return out


@pytest.mark.parametrize(
    "name", ["model", "dead_code", "fuse_gather_gemm", "lower", "assign_buffers"]
)
def test_every_dump_compiles_to_the_same_plan(
    name: str, model: Path, compiled: Path, tmp_path: Path
) -> None:
    plan = dsv4c.compile(model, tmp_path / "plan", edits=Edits(stage(compiled, name)))
    whole = dsv4c.load_plan(compiled)
    assert plan.graph == whole.graph
    assert (plan.manifest.options, plan.manifest.arena) == (
        whole.manifest.options,
        whole.manifest.arena,
    )
    start = parse(stage(compiled, name).read_text(encoding="utf-8")).stage
    expected = [one.name for one in pipeline("cpu", largest_step(512), start)]
    assert [one.name for one in plan.manifest.passes if one.index] == expected
    assert torch.equal(logits(dsv4c.load_plan(tmp_path / "plan")), logits(whole))


def test_an_edit_takes_effect_and_is_marked(model: Path, compiled: Path, tmp_path: Path) -> None:
    file = edited(stage(compiled, "model"), tmp_path / "mine.ir", "limit=10.0", "limit=0.01", 99)
    plan = dsv4c.compile(model, tmp_path / "plan", edits=Edits(file))
    mark = plan.manifest.source_ir
    assert mark is not None
    assert (mark.file, mark.stage) == ("mine.ir", "model")
    assert dsv4c.load_plan(compiled).manifest.source_ir is None
    assert not torch.equal(logits(plan), logits(dsv4c.load_plan(compiled)))
    result = CliRunner().invoke(main, ["inspect", str(plan.path)])
    assert "compiled from" in result.stdout
    assert "mine.ir (stage model)" in result.stdout
    diff = CliRunner().invoke(main, ["diff", str(compiled), str(plan.path), "--json"])
    inputs = {pair["what"]: pair["b"] for pair in json.loads(diff.stdout)["inputs"]}
    assert inputs["IR file"].startswith("mine.ir ")


def test_the_numeric_diff_finds_the_edit(model: Path, compiled: Path, tmp_path: Path) -> None:
    scale = 80**-0.5
    before = stage(compiled, "fuse_gather_gemm")  # the attribute of the fused node and its body's
    file = edited(before, tmp_path / "mine.ir", f"scale={scale}", "scale=0.2", 2)
    plan = dsv4c.compile(model, tmp_path / "plan", edits=Edits(file))
    words = ["diff", str(compiled), str(plan.path), "--numeric", "--limit", "8", "--json"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 6
    assert json.loads(result.stdout)["first"]["node"] == "L0.attn.o"


@pytest.mark.parametrize(
    ("old", "new", "code", "message"),
    [
        ("stage(model)", "stage(raw)", "DSV221", "line 1"),
        ("= rms_norm(", "= rms_norn(", "DSV222", "there is no op rms_norn"),
        ("in %pos: i32[T]", "in %pos: i32[T]\n  in %mood: f32[T]", "DSV222", "%mood"),
        ("weight<bf16>[96, 48]", "weight<f32>[96, 48]", "DSV212", "weight<bf16>[96, 48]"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    old: str, new: str, code: str, message: str, model: Path, compiled: Path, tmp_path: Path
) -> None:
    file = edited(stage(compiled, "model"), tmp_path / "mine.ir", old, new)
    with pytest.raises(DsvError) as error:
        dsv4c.compile(model, tmp_path / "plan", edits=Edits(file))
    assert (error.value.code, str(file) in error.value.where) == (code, True)
    assert message in str(error.value)
    assert not (tmp_path / "plan").exists()


def test_kernels_of_another_target_are_refused(model: Path, compiled: Path, tmp_path: Path) -> None:
    file = edited(stage(compiled, "lower"), tmp_path / "mine.ir", "! reference", "! linear_of_mine")
    for target in ("cpu", "sm_90a"):
        with pytest.raises(DsvError, match="DSV303"):
            dsv4c.compile(model, tmp_path / "plan", target, edits=Edits(file))


def test_options_that_the_file_decides(model: Path, compiled: Path, tmp_path: Path) -> None:
    file = stage(compiled, "model")
    words = ["compile", str(model), "-o", str(tmp_path / "plan"), "--from", str(file)]
    result = CliRunner().invoke(main, [*words, "--kv-cache", "fp8"])
    assert result.exit_code == 2
    assert "--kv-cache does not go with --from: the file decides it." in result.stderr
    result = CliRunner().invoke(main, [*words, "--target", "cpu", "--json"])
    assert json.loads(result.stdout)["source_ir"] == f"{file.name} (stage model)"
    assert dsv4c.load_plan(tmp_path / "plan").manifest.options.kv_cache == "f32"


def source(name: str, body: str) -> KernelSource:
    return KernelSource(name, "kind", "sm_90a", "# head\n", body, {})


def test_only_a_changed_body_counts_as_edited(tmp_path: Path) -> None:
    sources = {name: source(name, f"x = '{name}'\n") for name in ("a", "b", "c")}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "source.py").write_text("# other users\nx = 'a'\n")
    (tmp_path / "b.py").write_text("x = 'mine'\n")
    found = edited_sources(sources, tmp_path)
    assert found == {"b": replace(sources["b"], header="", body="x = 'mine'\n")}
    with pytest.raises(DsvError, match="DSV101: there is no source of a kernel"):
        edited_sources(sources, tmp_path / "a")


@pytest.fixture
def fake_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Compiles nothing; what would be compiled, by kernel."""
    bodies: dict[str, str] = {}

    def build(sources: Sequence[KernelSource], **options: Any) -> list[CacheEntry]:
        bodies.update({one.name: one.text for one in sources})
        entries: list[CacheEntry] = []
        for one in sources:
            folder = tmp_path / "built" / one.name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / META).write_text("{}")
            entries.append(CacheEntry(one.name, folder, one.arch, Resources(40, 0, 1), 0.1))
            report: Callable[[str, str, float], None] = options["progress"]
            report(one.name, "compiled", 0.1)
        return entries

    def link(objects: Sequence[Path], out: Path) -> None:
        out.write_bytes(b"".join(str(path).encode() for path in objects))

    monkeypatch.setattr(api, "build_kernels", build)
    monkeypatch.setattr(api, "link_library", link)
    return bodies


def test_an_edited_kernel_is_built_and_marked(tmp_path: Path, fake_build: dict[str, str]) -> None:
    first = dsv4c.compile(EXAMPLE, tmp_path / "plan", "sm_90a")
    name = first.manifest.kernels[0].name
    path = first.path / "kernels" / name / "source.py"
    path.write_text(path.read_text().replace("import", "# mine\nimport", 1))
    words = ["compile", str(EXAMPLE), "-o", str(first.path), "--target", "sm_90a"]
    result = CliRunner().invoke(main, [*words, "--kernels", str(first.path / "kernels")])
    assert result.exit_code == 0, result.stderr
    assert f"edited by hand: {name}\n" in result.stdout
    assert "# mine" in fake_build[name]
    plan = dsv4c.load_plan(first.path)
    assert {one.name: one.hand_edited for one in plan.manifest.kernels} == {
        one.name: one.name == name for one in first.manifest.kernels
    }
    shown = CliRunner().invoke(main, ["explain", str(plan.path), name])
    assert "edited by hand" in shown.stdout
