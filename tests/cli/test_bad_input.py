"""Bad input at the command line: one message, the documented exit code, nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from dsv4c.cli import main

SHARD = "model-00001-of-00001.safetensors"


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(result: Result, code: str, exit_code: int, *texts: str) -> None:
    """One message with the code, what, where, expected or found, and no traceback."""
    message = result.stderr
    assert result.exit_code == exit_code, message
    assert message.startswith(f"{code}: "), message
    assert message.count("DSV") == 1
    assert "Traceback" not in message
    assert result.stdout == ""
    for text in texts:
        assert text in message, message


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Path:
    """A private copy of the checkpoint."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def shard_of(model: Path) -> Path:
    return next(iter(sorted(model.glob("*.safetensors"))))


def edit_tensors(model: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Rewrite the single shard (and drop the index, which would disagree)."""
    path = shard_of(model)
    tensors = load_file(path)
    edit(tensors)
    for index in model.glob("*.index.json"):
        index.unlink()
    path.unlink()
    save_file(tensors, model / "model.safetensors")


def edit_config(model: Path, **changes: object) -> None:
    config = cast("dict[str, Any]", json.loads((model / "config.json").read_text()))
    config.update(changes)
    (model / "config.json").write_text(json.dumps(config))


def compile_refused(model: Path, code: str, exit_code: int, *texts: str) -> None:
    out = model.parent / "out" / "plan"
    refused(invoke("compile", model, "-o", out, "--target", "cpu"), code, exit_code, *texts)
    left = list(out.parent.iterdir()) if out.parent.exists() else []
    assert left == []


def test_missing_shard(broken: Path) -> None:
    name = shard_of(broken).name
    shard_of(broken).unlink()
    compile_refused(
        broken, "DSV211", 3, name if list(broken.glob("*.index.json")) else "safetensors"
    )


def test_truncated_shard(broken: Path) -> None:
    path = shard_of(broken)
    path.write_bytes(path.read_bytes()[:-100])
    compile_refused(broken, "DSV211", 3, path.name)


def test_missing_tensor(broken: Path) -> None:
    def remove(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["layers.1.attn.wkv.weight"]

    edit_tensors(broken, remove)
    compile_refused(broken, "DSV212", 3, "layers.1.attn.wkv")


def test_extra_tensor(broken: Path) -> None:
    edit_tensors(broken, lambda tensors: tensors.update({"layers.1.attn.extra": torch.zeros(2)}))
    compile_refused(broken, "DSV212", 3, "layers.1.attn.extra")


def test_renamed_tensor(broken: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        tensors["layers.1.attn.wkw.weight"] = tensors.pop("layers.1.attn.wkv.weight")

    edit_tensors(broken, rename)
    compile_refused(broken, "DSV212", 3, "layers.1.attn.wk")


def test_misshaped_tensor(broken: Path) -> None:
    def cut(tensors: dict[str, torch.Tensor]) -> None:
        tensors["norm.weight"] = tensors["norm.weight"][:-1].contiguous()

    edit_tensors(broken, cut)
    compile_refused(broken, "DSV212", 3, "norm.weight", "[128]", "[127]")


def test_tensor_of_another_dtype(broken: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["layers.0.hc_attn_fn"] = tensors["layers.0.hc_attn_fn"].half()

    edit_tensors(broken, change)
    compile_refused(broken, "DSV212", 3, "layers.0.hc_attn_fn", "F16")


def test_contradictory_config(broken: Path) -> None:
    edit_config(broken, num_hidden_layers=4)
    compile_refused(broken, "DSV202", 3, "compress_ratios")


def test_config_without_a_field(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    del config["o_groups"]
    (broken / "config.json").write_text(json.dumps(config))
    compile_refused(broken, "DSV201", 3, "o_groups")


def test_unknown_architecture(broken: Path) -> None:
    edit_config(broken, architectures=["LlamaForCausalLM"], model_type="llama")
    compile_refused(broken, "DSV203", 3, "LlamaForCausalLM")


def test_no_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    compile_refused(tmp_path / "model", "DSV201", 3, "config.json")


def test_pickled_weights(broken: Path) -> None:
    shard_of(broken).unlink()
    for index in broken.glob("*.index.json"):
        index.unlink()
    (broken / "pytorch_model.bin").write_bytes(b"\x80\x04")
    compile_refused(broken, "DSV211", 3, "pytorch_model.bin")


def test_output_that_is_no_plan(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    result = invoke("compile", checkpoint, "-o", tmp_path / "precious", "--target", "cpu")
    refused(result, "DSV102", 2, "precious")
    assert (tmp_path / "precious" / "file").read_text() == "kept"


def test_unsupported_cache(broken: Path) -> None:
    """An fp8 cache needs whole blocks of 64 dims without RoPE."""
    edit_config(broken, qk_rope_head_dim=32)
    compile_refused(broken, "DSV301", 4, "64")


@pytest.mark.parametrize(
    "name", ["weights/weights-00001.safetensors", "ir/00_model.ir", "config.json"]
)
def test_edited_plan(plan: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(plan, tmp_path / "plan"))
    content = bytearray((copy / name).read_bytes())
    content[-2] ^= 1
    (copy / name).write_bytes(content)
    refused(invoke("generate", copy, "a"), "DSV232", 3, name, "sha256")


def test_plan_without_a_file(plan: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(plan, tmp_path / "plan"))
    (copy / "tokenizer.json").unlink()
    refused(invoke("generate", copy, "a"), "DSV231", 3, "tokenizer.json")


def test_no_plan(tmp_path: Path) -> None:
    refused(invoke("run", tmp_path / "nowhere", "--prompt", "a"), "DSV231", 3, "nowhere")


def test_context_beyond_the_model(plan: Path) -> None:
    result = invoke("generate", plan, "a", "--max-new-tokens", "5000")
    refused(result, "DSV242", 3, "4096")


def test_token_ids_out_of_range(plan: Path, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("1 2 99999 3")
    refused(invoke("run", plan, "--tokens", tmp_path / "ids"), "DSV241", 3, "99999", "position 2")


def test_token_file_of_text(plan: Path, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("one two")
    refused(invoke("run", plan, "--tokens", tmp_path / "ids"), "DSV241", 3, "ids")


def test_full_disk(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dsv4c.plan.files.HashedFile.write", full)
    out = tmp_path / "out" / "plan"
    refused(
        invoke("compile", checkpoint, "-o", out, "--target", "cpu"), "DSV603", 7, "disk is full"
    )
    assert list(out.parent.iterdir()) == []


def test_gpu_plan_without_a_gpu(plan: Path, tmp_path: Path) -> None:
    """A plan that claims another target is refused before anything of it runs."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    copy = Path(shutil.copytree(plan, tmp_path / "plan"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["target"] = "sm_90a"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    refused(invoke("generate", copy, "a"), "DSV601", 7, "sm_90a", "--target cpu")


def test_weight_that_is_not_finite(broken: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["layers.2.attn.wo_b.weight"][3, 5] = torch.nan

    edit_tensors(broken, spoil)
    compile_refused(broken, "DSV213", 3, "layers.2.attn.wo_b.weight", "1 of")
