"""Tuning folders: built without a GPU (and here without the compiler), refused when damaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

import dsv4c
from dsv4c import cli
from dsv4c.codegen.cache import CacheEntry
from dsv4c.codegen.kernel import KernelSource
from dsv4c.codegen.kernels import linears, mhc_seam, rms_norm
from dsv4c.codegen.keys import kernel_key
from dsv4c.codegen.render import render
from dsv4c.codegen.resources import Resources
from dsv4c.errors import DsvError
from dsv4c.plan import manifest as plans
from dsv4c.plan.plan import Plan
from dsv4c.tune import build as module
from dsv4c.tune.build import Built, Wanted, build_folder
from dsv4c.tune.folder import read_folder
from dsv4c.tune.measure import measure_folder

SOURCES = [
    render("linears", linears.choose(1024, [("fp8_128", 4096, False)], "sm_90a"), "sm_90a"),
    render("mhc_seam", mhc_seam.choose(4096), "sm_90a"),
    render("rms_norm", rms_norm.choose(1024, "bf16", "sm_90a"), "sm_90a"),
]


NO_BUCKETS = """{"schema": "dsv4c.tune/1", "dsv4c": "0", "target": "sm_90a", "tools": {}, "model": "m",
"context": 1, "chunk": 1, "buckets": [], "library": "library.so", "plan": false,
"files": {"library.so": "0"}}"""


def kernel(source: KernelSource) -> plans.Kernel:
    key = kernel_key(source).folder
    return plans.Kernel(
        source.name, source.kind, source.arch, dict(source.params), key, [], 32, 0, 0
    )


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    import small

    folder = tmp_path_factory.mktemp("small")
    made = dsv4c.compile(small.write_small(folder / "model"), folder / "plan")
    kernels = [kernel(source) for source in SOURCES]
    model = msgspec.structs.replace(made.manifest.model, max_position_embeddings=8192)
    changes = {"target": "sm_90a", "kernels": kernels, "model": model}
    made.manifest = msgspec.structs.replace(made.manifest, **changes)
    return made


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[KernelSource]:
    """What would be compiled; the library has their names."""
    asked: list[KernelSource] = []

    def build_kernels(sources: Sequence[KernelSource], **more: object) -> list[CacheEntry]:
        asked.extend(sources)
        return [
            CacheEntry(one.name, Path(one.name), one.arch, Resources(64, 0, 1024), 1.0)
            for one in sources
        ]

    monkeypatch.setattr(module, "build_kernels", build_kernels)
    monkeypatch.setattr(
        module,
        "link_library",
        lambda objects, out: out.write_text("\n".join(str(one.parent) for one in objects)),
    )
    return asked


def build(out: Path, plan: Plan, wanted: Wanted) -> Built:
    return build_folder(out, lambda folder: plan.manifest, wanted)


def call(*words: str) -> Result:
    return CliRunner().invoke(cli.main, words, prog_name="dsv4c")


def test_a_folder(tmp_path: Path, plan: Plan, compiled: list[KernelSource]) -> None:
    built = build(tmp_path / "out", plan, Wanted((1, 8, 64), most=3))
    read = read_folder(tmp_path / "out")
    assert read == built.manifest
    assert (read.target, read.context, read.plan) == ("sm_90a", 4095, False)
    buckets = [(one.kernel, one.most, one.tokens) for one in read.buckets]
    assert buckets == [
        (SOURCES[0].name, 8, [1, 8]),
        (SOURCES[0].name, 64, [64]),
        ("mhc_seam_4096", 64, [1, 8, 64]),
    ]
    for one in read.buckets:
        assert 1 <= len(one.candidates) <= 3
        assert one.tile == one.table
        assert one.origin == "table"
    names = [one.name for bucket in read.buckets for one in bucket.candidates]
    assert sorted(names) == sorted(source.name for source in compiled)
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)
    for source in compiled:
        bodies = [each.body for each in compiled if each is not source and each.kind == source.kind]
        assert source.body not in bodies


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("wanted", "kernels"),
    [
        (Wanted((1,), kinds=("mhc_seam",)), ["mhc_seam_4096"]),
        (Wanted((1,), kernels=("linears_k1*",)), [SOURCES[0].name]),
        (Wanted((1,), kernels=("mhc*", "linears*")), [SOURCES[0].name, "mhc_seam_4096"]),
    ],
)
def test_only_some(tmp_path: Path, plan: Plan, wanted: Wanted, kernels: list[str]) -> None:
    read = build(tmp_path / "out", plan, wanted).manifest
    assert [one.kernel for one in read.buckets] == kernels


@pytest.mark.usefixtures("compiled")
def test_a_kernel_edited_by_hand_is_left_alone(tmp_path: Path, plan: Plan) -> None:
    first, *others = plan.manifest.kernels
    edited = msgspec.structs.replace(first, hand_edited=True)
    made = msgspec.structs.replace(plan.manifest, kernels=[edited, *others])
    read = build_folder(tmp_path / "out", lambda folder: made, Wanted((1,))).manifest
    assert [one.kernel for one in read.buckets] == ["mhc_seam_4096"]


@pytest.mark.usefixtures("compiled")
def test_nothing_to_try(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(DsvError, match="DSV101: no kernel of the plan has tiles to try"):
        build(tmp_path / "out", plan, Wanted((1,), kernels=("rms_norm*",)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (Wanted((1, 1000)), "the tokens of a step are no whole number of chunks"),
        (Wanted((1,), context=8191), "the step is beyond the model's context"),
        (Wanted((1, 512), context=8000), "the step is beyond the model's context"),
    ],
)
def test_steps_that_the_plan_cannot_make(
    tmp_path: Path, plan: Plan, wanted: Wanted, text: str
) -> None:
    with pytest.raises(DsvError, match=f"DSV101: {text}"):
        build(tmp_path / "out", plan, wanted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cache_key": "x"}, "is not what this version"),
        ({"name": "../../x"}, "is not what this version"),
        ({"params": {"a": 1}}, "other parameters"),
        ({"kind": "../../x"}, "of a kind that this version"),
    ],
)
def test_a_plan_of_another_version(
    tmp_path: Path, plan: Plan, changes: dict[str, object], text: str
) -> None:
    other = msgspec.structs.replace(plan.manifest.kernels[0], **changes)
    made = msgspec.structs.replace(plan.manifest, kernels=[other])
    with pytest.raises(DsvError, match=f"DSV233: a kernel of the plan .*{text}"):
        build_folder(tmp_path / "out", lambda folder: made, Wanted((1,)))


def test_what_the_compiler_refuses_is_left_out(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch, compiled: list[KernelSource]
) -> None:
    whole = module.build_kernels
    refused: list[str] = []

    def build_kernels(sources: Sequence[KernelSource], **more: object) -> list[CacheEntry]:
        whole(sources)
        refused.append(sources[0].name)
        raise DsvError("DSV401", "a kernel does not compile")

    class Cache:
        def lookup(self, key: object) -> CacheEntry | None:
            name = str(getattr(key, "name", ""))
            resources = Resources(64, 0, 1024)
            return None if name in refused else CacheEntry(name, Path(name), "", resources, 1.0)

    monkeypatch.setattr(module, "build_kernels", build_kernels)
    monkeypatch.setattr(module, "KernelCache", Cache)
    built = build(tmp_path / "out", plan, Wanted((1,)))
    assert built.refused == refused
    assert all(bucket.candidates for bucket in built.manifest.buckets)
    names = [one.name for bucket in built.manifest.buckets for one in bucket.candidates]
    assert sorted([*names, *refused]) == sorted(source.name for source in compiled)


@pytest.fixture
def folder(tmp_path: Path, plan: Plan, compiled: list[KernelSource]) -> Path:
    build(tmp_path / "out", plan, Wanted((1,)))
    return tmp_path / "out"


def test_an_earlier_folder_is_replaced_and_others_are_not(folder: Path, plan: Plan) -> None:
    build(folder, plan, Wanted((1,), kinds=("mhc_seam",)))
    assert {one.kind for one in read_folder(folder).buckets} == {"mhc_seam"}
    (folder / "manifest.json").write_text('{"schema": "dsv4c.plan/3"}')
    with pytest.raises(DsvError, match="DSV102: the output path exists and is not a tuning folder"):
        build(folder, plan, Wanted((1,)))


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda folder: (folder / "library.so").write_text("other"), "DSV232"),
        (lambda folder: (folder / "library.so").unlink(), "DSV231"),
        (lambda folder: (folder / "manifest.json").unlink(), "DSV231"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "DSV231"),
        (lambda folder: (folder / "manifest.json").write_text('{"schema": "x"}'), "DSV233"),
        (lambda folder: edit(folder, '"library.so"', '"../library.so"'), "DSV231"),
        (lambda folder: edit(folder, '"library": "library.so"', '"library": "b"'), "DSV231"),
        (lambda folder: edit(folder, '"most": 8', '"most": "8"'), "DSV231"),
        (lambda folder: edit(folder, '"chunk": 512', '"chunk": 0'), "DSV231"),
        (lambda folder: edit(folder, '"chunk": 512', '"chunk": ' + "[" * 100_000), "DSV231"),
        (lambda folder: (folder / "manifest.json").write_text(NO_BUCKETS), "DSV231"),
        (lambda folder: edit(folder, '"tokens": [\n    1\n   ]', '"tokens": []'), "DSV231"),
    ],
)
def test_a_damaged_folder_is_refused(folder: Path, damage: object, code: str) -> None:
    assert callable(damage)
    damage(folder)
    with pytest.raises(DsvError, match=code):
        read_folder(folder)
    result = call("tune", "measure", str(folder), "-o", str(folder.parent / "results.json"))
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"{code}: ")
    assert not (folder.parent / "results.json").exists()


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_folder_and_a_plan_that_do_not_belong_together(
    folder: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DsvError, match="DSV101: the tuning folder was made for a plan that is not"):
        measure_folder(folder)
    with pytest.raises(DsvError, match="DSV233: the plan and the tuning folder do not belong"):
        measure_folder(folder, plan.path)
    monkeypatch.setattr("dsv4c.tune.measure.load_plan", lambda path: plan)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(plan, "target", "sm_90a")
    monkeypatch.setattr("dsv4c.hardware.gpus", lambda: ())
    with pytest.raises(DsvError, match="DSV601: tune measure needs a GPU and there") as caught:
        measure_folder(folder, plan.path)
    assert (caught.value.where, caught.value.found) == (str(folder), "no GPU")
    assert caught.value.hint == "copy the folder to a machine with one: no compiler is needed there"


def test_variants_are_named_by_their_tile(compiled: list[KernelSource], folder: Path) -> None:
    bucket = read_folder(folder).buckets[0]
    values = "_".join(str(int(value)) for value in bucket.candidates[0].tile.values())
    assert bucket.candidates[0].name == f"{bucket.kernel}_t8_{values}"
    assert replace(compiled[0]).name == bucket.candidates[0].name
