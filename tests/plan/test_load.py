"""A plan folder is checked in full before anything in it is used."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import dsv4c
from dsv4c.errors import DsvError
from dsv4c.plan.files import sha256
from dsv4c.plan.plan import Plan

Edit = Callable[[dict[str, Any]], object]


def edit(plan: Path, change: Edit) -> None:
    path = plan / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def refused(plan: Path) -> DsvError:
    with pytest.raises(DsvError) as caught:
        dsv4c.load_plan(plan)
    assert caught.value.exit_code == 3
    assert caught.value.hint
    return caught.value


def test_a_whole_plan_loads_and_runs(plan: Path, compiled: Path) -> None:
    loaded, original = dsv4c.load_plan(plan), dsv4c.load_plan(str(compiled))
    assert (loaded.path, loaded.target, loaded.graph.stage) == (plan, "cpu", "planned")
    assert loaded.graph == original.graph
    ids = [5, 6, 7, 8, 9]
    sessions = [one.session(1, 8) for one in (loaded, original)]
    logits = [session.prefill(session.open(), ids) for session in sessions]
    assert torch.equal(*logits)


def test_every_file_but_the_manifest_has_a_hash(compiled: Path) -> None:
    files = {p.relative_to(compiled).as_posix() for p in compiled.rglob("*") if p.is_file()}
    assert dsv4c.load_plan(compiled).manifest.files.keys() == files - {"manifest.json"}


@pytest.mark.parametrize(
    "name",
    ["config.json", "events.jsonl", "ir/00_model.ir", "weights/weights-00001.safetensors", "last"],
)
def test_a_flipped_byte_is_found(plan: Path, name: str) -> None:
    if name == "last":
        name = max(path.relative_to(plan).as_posix() for path in plan.glob("ir/*.ir"))
    path = plan / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    error = refused(plan)
    assert (error.code, error.where) == ("DSV232", str(path))
    assert error.found == sha256(path)
    assert (
        error.expected
        == "sha256 " + json.loads((plan / "manifest.json").read_bytes())["files"][name]
    )


def with_library(plan: Path) -> Path:
    """Give the plan a native library, as a plan for a GPU has; this one is none."""
    path = plan / "kernels" / "library.so"
    path.parent.mkdir()
    path.write_bytes(b"not a library")
    name = path.relative_to(plan).as_posix()
    edit(plan, lambda m: (m.update(library=name), m["files"].update({name: sha256(path)})))
    return path


def test_an_edited_library_is_not_opened(plan: Path) -> None:
    path = with_library(plan)
    path.write_bytes(b"something else")
    error = refused(plan)
    assert (error.code, error.where) == ("DSV232", str(path))


def test_a_library_that_does_not_load(plan: Path) -> None:
    path = with_library(plan)
    loaded = dsv4c.load_plan(plan)  # opens nothing
    with pytest.raises(DsvError, match="does not load") as caught:
        loaded.session(1, 8)
    assert (caught.value.code, caught.value.where) == ("DSV604", str(path))
    assert caught.value.exit_code == 7


def test_weights_are_hashed_when_they_are_read_at_the_latest(plan: Path) -> None:
    path = plan / "weights" / "weights-00001.safetensors"
    os.truncate(path, 1000)
    loaded = Plan.load(plan, check_weights=False)
    with pytest.raises(DsvError) as caught:
        loaded.session(1, 8)
    assert (caught.value.code, caught.value.where) == ("DSV232", str(path))


@pytest.mark.parametrize("size", [0, 1000])
def test_a_truncated_weight_file_is_found(plan: Path, size: int) -> None:
    path = plan / "weights" / "weights-00001.safetensors"
    os.truncate(path, size)
    assert (refused(plan).code, refused(plan).where) == ("DSV232", str(path))


def test_a_missing_file_is_found(plan: Path) -> None:
    (plan / "weights" / "weights-00001.safetensors").unlink()
    error = refused(plan)
    assert (error.code, error.where) == ("DSV231", str(plan))
    assert error.expected == "the file weights/weights-00001.safetensors"


def test_links_are_not_followed(plan: Path, tmp_path: Path) -> None:
    """Neither a file nor a folder on the way may be a link, whatever it leads to."""
    path = plan / "config.json"
    shutil.move(path, tmp_path / "config.json")
    path.symlink_to(tmp_path / "config.json")
    assert refused(plan).code == "DSV231"
    path.unlink()
    shutil.move(tmp_path / "config.json", path)
    dsv4c.load_plan(plan)
    shutil.move(plan / "ir", tmp_path / "ir")
    (plan / "ir").symlink_to(tmp_path / "ir")
    error = refused(plan)
    assert (error.code, error.found) == ("DSV231", "a link or a special file")


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "ir/../../x", "", ".", "ir//x", "a\\..\\x", "ir/\x00", ".hidden"],
)
@pytest.mark.parametrize("place", ["files", "passes", "weights", "library"])
def test_names_cannot_lead_out_of_the_folder(plan: Path, name: str, place: str) -> None:
    (plan.parent / "x").write_text("outside", encoding="utf-8")

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = sha256(plan.parent / "x")
        if place == "passes":
            manifest["passes"][-1]["ir"] = name
        elif place == "weights":
            manifest["weights"]["embed"]["components"][0]["file"] = name
        elif place == "library":
            manifest["library"] = name

    edit(plan, change)
    error = refused(plan)
    assert (error.code, error.found) == ("DSV231", repr(name))


EDITS: dict[str, tuple[Edit, str, str]] = {
    "another schema": (lambda m: m.update(schema="dsv4c.plan/0"), "DSV233", "dsv4c.plan/0"),
    "no schema": (lambda m: m.pop("schema"), "DSV233", "None"),
    "unknown field": (lambda m: m.update(extra=1), "DSV231", "extra"),
    "unknown field inside": (lambda m: m["model"].update(extra=1), "DSV231", "extra"),
    "missing field": (lambda m: m.pop("schedule"), "DSV231", "schedule"),
    "wrong type": (lambda m: m["model"].update(vocab_size="96"), "DSV231", "vocab_size"),
    "unknown target": (lambda m: m.update(target="sm_75"), "DSV231", "target"),
    "schedule reordered": (lambda m: m["schedule"].reverse(), "DSV231", "schedule"),
    "schedule cut": (lambda m: m["schedule"].pop(), "DSV231", "schedule"),
    "another kernel": (lambda m: m["schedule"][3].update(impl="x"), "DSV231", "schedule"),
    "another place": (lambda m: m["schedule"][3].update(offsets=[0, 7]), "DSV231", "schedule"),
    "a smaller arena": (lambda m: m["arena"].update(bytes=256), "DSV231", "arena"),
    "page geometry": (lambda m: m["states"][0].update(bytes_per_page=64), "DSV231", "states"),
    "weight missing": (lambda m: m["weights"].pop("embed"), "DSV231", "weights"),
    "no passes": (lambda m: m.update(passes=[]), "DSV231", "no graph"),
    "an earlier graph": (lambda m: m["passes"].pop(), "DSV231", "stage"),
    "weights without hash": (
        lambda m: m["files"].pop("weights/weights-00001.safetensors"),
        "DSV231",
        "weights/weights-00001.safetensors",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_manifest_is_found(plan: Path, name: str) -> None:
    change, code, text = EDITS[name]
    edit(plan, change)
    error = refused(plan)
    assert error.code == code
    assert text in str(error)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe{}", b'{"schema": 3}'])
def test_an_unreadable_manifest(plan: Path, content: bytes) -> None:
    (plan / "manifest.json").write_bytes(content)
    assert refused(plan).code in ("DSV231", "DSV233")


def test_a_manifest_nested_too_deep(plan: Path) -> None:
    (plan / "manifest.json").write_bytes(b'{"schema":' + b"[" * 100_000)
    assert refused(plan).code == "DSV231"


def test_a_manifest_cut_anywhere(plan: Path) -> None:
    data = (plan / "manifest.json").read_bytes()
    for end in range(1, len(data) - 1, len(data) // 40):
        (plan / "manifest.json").write_bytes(data[:end])
        error = refused(plan)
        assert (error.code, error.where) == ("DSV231", str(plan / "manifest.json"))


def test_where_no_plan_is(tmp_path: Path) -> None:
    for path, found in ((tmp_path, "a folder without it"), (tmp_path / "none", "no folder")):
        error = refused(path)
        assert (error.code, error.where, error.found) == ("DSV231", str(path), found)


def test_weights_that_do_not_fit_the_graph(plan: Path) -> None:
    """Hashes that were made to fit do not help a wrong tensor."""
    path = plan / "weights" / "weights-00001.safetensors"
    good = load_file(path)
    for wrong, found in (
        ({"embed/weight": good["embed/weight"][:-1].clone()}, "[95, 48] torch.bfloat16"),
        ({"embed/weight": good["embed/weight"].float()}, "[96, 48] torch.float32"),
        ({}, "nothing"),
    ):
        save_file({k: v for k, v in good.items() if k != "embed/weight"} | wrong, path)
        name = path.relative_to(plan).as_posix()
        edit(plan, lambda manifest: manifest["files"].update({name: sha256(path)}))  # noqa: B023
        loaded = dsv4c.load_plan(plan)
        with pytest.raises(DsvError, match="a weight of the plan does not fit") as caught:
            loaded.session(1, 8)
        assert (caught.value.code, caught.value.found) == ("DSV231", found)
        assert "embed" in caught.value.where


def test_a_plan_for_a_gpu_says_that_there_is_none(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(plan, lambda manifest: manifest.update(target="sm_90a"))
    loaded = dsv4c.load_plan(plan)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DsvError, match="needs a GPU") as caught:
        loaded.session()
    assert (caught.value.code, caught.value.expected) == ("DSV601", "a GPU of sm_90a")
    assert caught.value.exit_code == 7


def test_a_plan_for_another_gpu(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(plan, lambda manifest: manifest.update(target="sm_100a"))
    loaded = dsv4c.load_plan(plan)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    with pytest.raises(DsvError, match="another GPU") as caught:
        loaded.session()
    assert (caught.value.code, caught.value.found) == ("DSV233", "a GPU, (9, 0)")
    assert caught.value.expected == "sm_100a, compute capability (10, 0)"
