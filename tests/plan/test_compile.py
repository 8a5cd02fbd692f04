"""Compiling into a folder: all or nothing, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import small
import torch

import dsv4c
from dsv4c import api
from dsv4c.errors import DsvError
from dsv4c.plan.files import replaced_folder
from dsv4c.plan.plan import Plan

SCRIPT = """
import sys, dsv4c
try:
    dsv4c.compile(sys.argv[1], sys.argv[2], dtype="float32", kv_cache="f32")
except dsv4c.DsvError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def exact(model: Path, out: Path) -> Plan:
    return dsv4c.compile(model, out, dtype="float32", kv_cache="f32")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def logits(plan: Path) -> torch.Tensor:
    session = dsv4c.load_plan(plan).session(1, 8)
    return session.prefill(session.open(), [3, 4, 5])


def test_a_new_plan_takes_the_place_of_the_old(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "plan"
    first = exact(model, out)
    (out / "note").write_text("of the old plan", encoding="utf-8")
    other = small.write_small(tmp_path / "other", seed=1)
    second = exact(other, out)
    assert names(out.parent) == ["plan"]
    assert not (out / "note").exists()
    assert first.manifest.files != second.manifest.files
    assert dsv4c.load_plan(out).manifest == second.manifest
    assert out.stat().st_mode & 0o777 == 0o755


def test_two_compiles_of_a_model_give_the_same_plan(model: Path, tmp_path: Path) -> None:
    made = [exact(model, tmp_path / name).manifest for name in ("a", "b")]
    files = [{k: v for k, v in one.files.items() if k != "events.jsonl"} for one in made]
    assert files[0] == files[1]
    assert made[0].schedule == made[1].schedule


def test_an_empty_folder_and_a_link_to_a_plan_are_taken(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan"
    out.mkdir()
    exact(model, out)
    link = tmp_path / "link"
    link.symlink_to(out)
    exact(small.write_small(tmp_path / "other", seed=1), link)
    assert link.is_symlink()
    assert dsv4c.load_plan(out).manifest == dsv4c.load_plan(link).manifest
    assert names(tmp_path) == ["link", "other", "plan"]


def _file(path: Path) -> None:
    path.write_text("mine", encoding="utf-8")


def _folder(path: Path) -> None:
    path.mkdir()
    _file(path / "file")


def _web_extension(path: Path) -> None:
    path.mkdir()
    (path / "manifest.json").write_text('{"manifest_version": 3}', encoding="utf-8")


@pytest.mark.parametrize("make", [_file, _folder, _web_extension])
def test_what_is_no_plan_is_left_alone(
    model: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    make(out)
    with pytest.raises(DsvError, match="is not a plan") as caught:
        exact(model, out)
    assert (caught.value.code, caught.value.where) == ("DSV102", str(out))
    assert names(tmp_path) == ["out"]
    if make is _web_extension:
        assert names(out) == ["manifest.json"]


def test_the_model_itself_is_no_place_for_the_plan(model: Path) -> None:
    with pytest.raises(DsvError, match="DSV102"):
        exact(model, model)
    assert names(model) == ["config.json", "model.safetensors"]


def test_a_compile_that_fails_leaves_the_old_plan(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan"
    exact(model, out)
    before = logits(out)
    broken = small.write_small(tmp_path / "broken", hidden_size=40)
    os.truncate(broken / "model.safetensors", 5000)
    with pytest.raises(DsvError, match="DSV211"):
        exact(broken, out)
    assert names(tmp_path) == ["broken", "plan"]
    assert torch.equal(logits(out), before)
    with pytest.raises(DsvError, match="DSV211"):
        exact(broken, tmp_path / "new")
    assert names(tmp_path) == ["broken", "plan"]


def test_a_folder_that_appears_meanwhile_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def write() -> None:
        with replaced_folder(out) as work:
            _file(work / "file")
            _folder(out)

    with pytest.raises(DsvError, match="is not a plan"):
        write()
    assert names(tmp_path) == ["out"]
    assert names(out) == ["file"]


@pytest.mark.parametrize("stage", ["read_source", "_run_passes", "write_weights", "_hashes"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "no room")])
def test_a_compile_interrupted_anywhere_leaves_nothing(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    error: BaseException | type[BaseException],
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(api, stage, fail)
    expected = KeyboardInterrupt if error is KeyboardInterrupt else DsvError
    with pytest.raises(expected) as caught:
        exact(model, tmp_path / "plan")
    assert names(tmp_path) == []
    if isinstance(caught.value, DsvError):
        assert (caught.value.code, caught.value.what) == ("DSV603", "the disk is full")


@pytest.mark.parametrize("limit", [2_000, 60_000, 700_000])
def test_files_that_cannot_be_written_in_full(model: Path, tmp_path: Path, limit: int) -> None:
    """A limit on file size stops the log, the graph's text and the weights, as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model), str(tmp_path / "plan")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.startswith("DSV603: the plan cannot be written\n")
    assert str(tmp_path / "plan") in done.stdout
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DsvError, match="cannot be written") as caught:
        exact(model, tmp_path / "file" / "plan")
    assert (caught.value.code, caught.value.found) == ("DSV603", "File exists")
    assert caught.value.where == str(tmp_path / "file")


@pytest.mark.slow
def test_killed_compiles_harm_nothing(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan"
    exact(model, out)
    wanted, draw = logits(out), random.Random(0)
    other = small.write_small(tmp_path / "other", seed=1)
    new = logits(exact(other, tmp_path / "new").path)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(other), str(out)])
        _wait_for_work(tmp_path, process)
        time.sleep(draw.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists() or any(torch.equal(logits(out), one) for one in (wanted, new))
    exact(model, out)
    assert names(tmp_path) == ["new", "other", "plan"]
    assert torch.equal(logits(out), wanted)


def _wait_for_work(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the compile has made its work folder: before that there is nothing to harm."""
    while process.poll() is None and not any(folder.glob(".plan.*")):
        time.sleep(0.005)


def test_compiles_to_one_place_at_once(model: Path, tmp_path: Path) -> None:
    """Each is whole; the last to end stays. What a live compile works in is not removed."""
    out = tmp_path / "plan"

    def write(number: int) -> None:
        with replaced_folder(out) as work:
            (work / "number").write_text(str(number), encoding="utf-8")
            time.sleep(0.01 * (number % 3))
            (work / "manifest.json").write_text('{"schema": "dsv4c.plan/1"}', encoding="utf-8")
            assert (work / "number").read_text(encoding="utf-8") == str(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert names(tmp_path) == ["plan"]
    assert names(out) == ["manifest.json", "number"]
