"""Checkpoint folders: what is read is what was written, and what is wrong is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.errors import DsvError
from dsv4c.ir.weight_codecs import dequantize
from dsv4c.models.deepseek_v4.config import load_config
from dsv4c.models.deepseek_v4.names import TensorSlice, WeightSource, resolve_weights

INDEX = "model.safetensors.index.json"


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_tensors_are_those_that_safetensors_reads(checkpoint: Path) -> None:
    opened = Checkpoint.open(checkpoint)
    expected: dict[str, torch.Tensor] = {}
    for shard in shards(checkpoint):
        expected |= load_file(shard)
    assert len(shards(checkpoint)) == 3
    assert opened.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        found = opened.read(name)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)


def test_weights_are_stacked(checkpoint: Path) -> None:
    opened = Checkpoint.open(checkpoint)
    weights = resolve_weights(load_config(checkpoint), opened)
    (stack,) = opened.read_weight(weights["layers.2.ffn.experts.w2"])
    assert stack.shape == (3, 64, 32)
    for expert in range(3):
        one = opened.read(f"layers.2.ffn.experts.{expert}.w2.weight")
        assert torch.equal(stack[expert], one)
        (alone,) = opened.read_expert(weights["layers.2.ffn.experts.w2"], expert)
        assert torch.equal(alone, one)


def test_bytes_slices_and_widening(tmp_path: Path) -> None:
    fused = torch.randn(3, 64, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    codes = torch.arange(256).to(torch.uint8)
    tensors = {
        "fused": fused,
        "e4m3": codes.clone().view(torch.float8_e4m3fn),
        "e8m0": codes.clone().view(torch.float8_e8m0fnu),
        "i8": codes.clone().view(torch.int8),
        "sink": fused[0, 0].clone(),
        "empty": torch.empty(0, 3),
    }
    (tmp_path / "config.json").write_text("{}")
    save_file(tensors, tmp_path / "model.safetensors")
    opened = Checkpoint.open(tmp_path)
    for name in ("e4m3", "e8m0", "i8"):
        assert torch.equal(opened.read(name), codes)
    assert opened.read("empty").shape == (0, 3)
    up = WeightSource("bf16", (3, 32, 16), (("weight", (TensorSlice("fused", (32, 64)),)),))
    assert torch.equal(opened.read_weight(up)[0], fused[:, 32:])
    assert torch.equal(opened.read_expert(up, 2)[0], fused[2, 32:])
    sink = WeightSource("f32", (16,), (("weight", (TensorSlice("sink"),)),))
    assert torch.equal(opened.read_weight(sink)[0], fused[0, 0].float())


def test_the_transformers_names_give_the_same_weights(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.DeepseekV4Config(
        vocab_size=64,
        hidden_size=32,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        head_dim=32,
        qk_rope_head_dim=8,
        q_lora_rank=24,
        o_groups=2,
        o_lora_rank=16,
        num_experts_per_tok=2,
        n_routed_experts=4,
        num_hash_layers=1,
        compress_ratios=[0, 4, 128],
        index_n_heads=8,
        index_head_dim=16,
    )
    model = transformers.DeepseekV4ForCausalLM(config)
    weights: list[dict[str, torch.Tensor]] = []
    for original in (True, False):
        folder = tmp_path / str(original)
        model.save_pretrained(folder, save_original_format=original)
        opened = Checkpoint.open(folder)
        sources = resolve_weights(load_config(folder), opened)
        weights.append({name: opened.read_weight(s)[0] for name, s in sources.items()})
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    state = model.state_dict()
    fused = state["model.layers.1.mlp.experts.gate_up_proj"]
    assert torch.equal(weights[0]["layers.1.ffn.experts.w3"], fused[:, 16:])
    kv_norm = state["model.layers.1.self_attn.kv_norm.weight"]
    assert torch.equal(weights[0]["layers.1.attn.kv_norm"], kv_norm)


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def remove_shard(folder: Path) -> None:
    shards(folder)[1].unlink()


def truncate_shard(folder: Path) -> None:
    path = shards(folder)[2]
    path.write_bytes(path.read_bytes()[:-100])


def shard_becomes_a_folder(folder: Path) -> None:
    shards(folder)[0].unlink()
    (folder / "model-00001-of-00003.safetensors").mkdir()


def swap_shards(folder: Path) -> None:
    first, second, _ = shards(folder)
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)


def remove_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def edit_index(change: Callable[[dict[str, str]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        change(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return edit


def index_text(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / INDEX).write_text(text)


def link_outside(folder: Path) -> None:
    path = shards(folder)[0]
    path.rename(folder.parent / "secret")
    path.symlink_to(folder.parent / "secret")


def only_pickles(folder: Path) -> None:
    for path in (*shards(folder), folder / INDEX):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")


def no_weights(folder: Path) -> None:
    for path in (*shards(folder), folder / INDEX):
        path.unlink()


BAD: list[tuple[Callable[[Path], object], str, str]] = [
    (remove_config, "DSV201", "config.json is missing"),
    (remove_shard, "DSV211", "model-00002-of-00003.safetensors"),
    (truncate_shard, "DSV211", "truncated"),
    (shard_becomes_a_folder, "DSV211", "a folder or a special file"),
    (swap_shards, "DSV211", "contradicts the index"),
    (remove_index, "DSV211", "3 safetensors files and no index"),
    (edit_index(lambda m: m.update(ghost=m["norm.weight"])), "DSV211", "tensor ghost"),
    (
        edit_index(lambda m: m.pop("norm.weight")),
        "DSV211",
        "norm.weight, which the index has in no",
    ),
    (edit_index(lambda m: m.update(ghost="../x.safetensors")), "DSV211", "without folders"),
    (edit_index(lambda m: m.clear()), "DSV211", "the index is malformed"),
    (index_text("{"), "DSV211", "the index cannot be read"),
    (index_text("[]"), "DSV211", "the index is malformed"),
    (index_text('{"weight_map": [1]}'), "DSV211", "the index is malformed"),
    (index_text('{"weight_map": {"a": "x", "a": "y"}}'), "DSV211", "the name a appears twice"),
    (link_outside, "DSV211", "a link leads out of the checkpoint"),
    (only_pickles, "DSV211", "the weights are pickle files"),
    (no_weights, "DSV211", "the folder holds no weights"),
]


@pytest.mark.parametrize(("change", "code", "text"), BAD, ids=[text for _, _, text in BAD])
def test_bad_folders(
    checkpoint: Path, change: Callable[[Path], object], code: str, text: str
) -> None:
    change(checkpoint)
    with pytest.raises(DsvError, match=text) as error:
        Checkpoint.open(checkpoint)
    assert error.value.code == code
    assert error.value.exit_code == 3
    assert str(checkpoint) in error.value.where


def test_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name, found in (("nothing", "nothing"), ("file", "a file")):
        with pytest.raises(DsvError, match="not a folder") as error:
            Checkpoint.open(tmp_path / name)
        assert error.value.found == found


def test_links_of_a_hugging_face_cache(checkpoint: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "cache" / "snapshots" / "abc", tmp_path / "cache" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(checkpoint.iterdir()):
        blob = path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    assert "norm.weight" in Checkpoint.open(snapshot).tensors


def test_a_file_that_shrinks_later(checkpoint: Path) -> None:
    opened = Checkpoint.open(checkpoint)
    name = max(opened.tensors, key=lambda n: opened.tensors[n].stop)
    path = checkpoint / opened.tensors[name].file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DsvError, match=f"reading of tensor {name}"):
        opened.read(name)


def test_nan_scales_name_their_tensor(tmp_path: Path) -> None:
    scale = torch.full((1, 2), 127, dtype=torch.uint8)
    scale[0, 1] = 255
    weight = torch.zeros(128, 256, dtype=torch.float8_e4m3fn)
    save_file(
        {"w.weight": weight, "w.scale": scale.view(torch.float8_e8m0fnu)},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text("{}")
    components = (("weight", (TensorSlice("w.weight"),)), ("scale", (TensorSlice("w.scale"),)))
    with pytest.raises(DsvError, match=r"not finite[\s\S]*1 of 2") as error:
        Checkpoint.open(tmp_path).read_weight(WeightSource("fp8_128", (128, 256), components))
    assert error.value.code == "DSV213"
    assert error.value.where.endswith("model.safetensors, tensor w.scale")


def test_dequantised_from_file(checkpoint: Path) -> None:
    opened = Checkpoint.open(checkpoint)
    source = resolve_weights(load_config(checkpoint), opened)["layers.1.attn.wq_a"]
    values = dequantize(source.format, opened.read_weight(source), source.shape)
    assert torch.equal(values, opened.read("layers.1.attn.wq_a.weight").float())
