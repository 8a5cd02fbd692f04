"""Written checkpoints: readable by safetensors, whole or not there at all."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.checkpoint.writer import CheckpointWriter, new_folder
from dsv4c.errors import DsvError
from dsv4c.models.deepseek_v4.inventory import Header


class Usage(NamedTuple):
    total: int
    used: int
    free: int


HEADERS = {
    "b": Header("U8", (5,)),
    "a": Header("F32", (2, 3)),
    "c": Header("BF16", (4,)),
    "s": Header("F32", ()),
    "e": Header("F8_E4M3", (3, 1)),
    "z": Header("F32", (0, 2)),
}
TENSORS = {
    "b": torch.arange(5, dtype=torch.uint8),
    "a": torch.arange(6.0).reshape(3, 2).T.contiguous().T.reshape(2, 3),
    "c": torch.arange(4).bfloat16(),
    "s": torch.tensor(3.5),
    "e": torch.tensor([[1], [2], [3]], dtype=torch.uint8),
    "z": torch.empty(0, 2),
}


def fill(writer: CheckpointWriter, order: list[str]) -> None:
    for name in order:
        writer.write(name, TENSORS[name])
    writer.finish()


def check(folder: Path, files: list[str]) -> None:
    loaded: dict[str, torch.Tensor] = {}
    for file in files:
        loaded |= load_file(folder / file)
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(loaded[name].view(tensor.dtype), tensor)


def test_one_file_has_no_index(tmp_path: Path) -> None:
    fill(CheckpointWriter(tmp_path, HEADERS), sorted(TENSORS))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    check(tmp_path, ["model.safetensors"])


def test_shards_and_index_in_any_order(tmp_path: Path) -> None:
    fill(CheckpointWriter(tmp_path, HEADERS, shard_bytes=20), sorted(TENSORS, reverse=True))
    files = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    check(tmp_path, files)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 5 + 24 + 8 + 4 + 3
    assert index["weight_map"] == dict.fromkeys("ab", files[0]) | dict.fromkeys("csez", files[1])
    (tmp_path / "config.json").write_text("{}")
    assert Checkpoint.open(tmp_path).tensors.keys() == TENSORS.keys()


def test_tensors_are_aligned(tmp_path: Path) -> None:
    fill(CheckpointWriter(tmp_path, HEADERS), list(TENSORS))
    (tmp_path / "config.json").write_text("{}")
    for name, info in Checkpoint.open(tmp_path).tensors.items():
        assert info.start % TENSORS[name].itemsize == 0


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_folder(out) as work:
        (work / "x").write_text("1")
        assert not out.exists()
    assert (out / "x").read_text() == "1"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_failure(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), new_folder(tmp_path / "out") as work:  # noqa: PT012
        (work / "x").write_text("1")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_disk_errors_are_told(tmp_path: Path) -> None:
    with pytest.raises(DsvError, match="No space left") as error, new_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device", "some/file")
    assert (error.value.code, error.value.exit_code) == ("DSV603", 7)
    assert error.value.where == "some/file"
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DsvError, match="DSV102"), new_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out").is_dir()


def test_a_full_disk_is_seen_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def almost_full(path: Path) -> Usage:
        return Usage(100, 57, 43)

    monkeypatch.setattr(shutil, "disk_usage", almost_full)
    with pytest.raises(DsvError, match="44 bytes") as error:
        CheckpointWriter(tmp_path, HEADERS)
    assert error.value.code == "DSV603"
    assert list(tmp_path.iterdir()) == []
