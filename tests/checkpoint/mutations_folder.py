"""Mutants of the folder: index, shards, links, special files, files that change, descriptions."""

from __future__ import annotations

import os
from collections.abc import Iterator

import damage
from damage import INDEX, Edit
from sound import Mutant, Sound


def index_lies(sound: Sound) -> Iterator[Mutant]:
    texts = ("", "{", "[]", "null", "3", '{"weight_map": 3}', '{"weight_map": {}}', "[" * 5000)
    for text in texts:
        yield Mutant("index", text[:20], damage.text(INDEX, text), (INDEX,))
    for file in (
        "../x",
        "/etc/passwd",
        "",
        ".",
        "..",
        "a/b",
        "x\0y",
        "no-such.safetensors",
        "ä",
    ):
        change = damage.map(lambda m, f=file: m.update({sound.pick(1)[0]: f}), sound.indexed)
        yield Mutant("index", f"a tensor in {file!a}", change)
    if not sound.indexed:
        return
    for name in sound.pick(8):
        others = [file for file in sound.files if file != sound.places[name]]
        for file in others:
            yield Mutant(
                "index",
                f"{name} in {file}",
                damage.map(lambda m, n=name, f=file: m.update({n: f})),
                (name,),
            )
        yield Mutant("index", f"without {name}", damage.map(lambda m, n=name: m.pop(n)), (name,))
        twice = damage.edit_text(
            INDEX, lambda t, n=name: t.replace(f'"{n}"', f'"{n}": "x", "{n}"', 1)
        )
        yield Mutant("index", f"{name} twice", twice, (INDEX, name))
        ghost = f"{name}.ghost"
        change = damage.map(lambda m, n=name, g=ghost: m.update({g: m[n]}))
        yield Mutant("index", f"with {ghost}", change, (ghost,))
    for file in sound.files:
        change = damage.map(lambda m, f=file: [m.pop(n) for n in [n for n in m if m[n] == f]])
        yield Mutant("index", f"without {file}", change)
    yield Mutant("index", "missing", lambda folder: (folder / INDEX).unlink())
    total = damage.edit_text(INDEX, lambda t: t.replace('"total_size": ', '"total_size": 1'))
    yield Mutant("index", "wrong total_size", total)


def shard_swaps(sound: Sound) -> Iterator[Mutant]:
    for first in sound.files:
        yield Mutant("shards", f"{first} missing", damage.remove(first))
        for second in sound.files:
            if first < second:
                yield Mutant("shards", f"{first} <-> {second}", damage.swap(first, second))
            if first != second:
                copy = damage.copy(first, second)
                yield Mutant("shards", f"{first} over {second}", copy, (second,))
                link = damage.hard_link(first, second)
                yield Mutant("shards", f"{second} is a hard link to {first}", link, (second,))


def links_and_special_files(sound: Sound) -> Iterator[Mutant]:
    files = [*sound.files, "config.json", "tokenizer.json"]
    files += [name for name in (INDEX, "hf_quant_config.json") if (sound.folder / name).exists()]
    for file in files:
        for what, change in (
            ("a link out", damage.link_out),
            ("a dangling link", damage.dangling),
            ("a link to itself", damage.loop),
            ("a link to a device", damage.device),
            ("a FIFO", damage.fifo),
            ("a folder", damage.folder),
            ("a link to a folder", damage.link_to_folder),
            ("empty", damage.empty),
            ("a link inside", damage.link_inside),
            ("a hard link", damage.hard_link_out),
        ):
            if (file, what) == ("tokenizer.json", "empty"):
                continue  # what a tokenizer holds is not looked at here
            names = () if what in ("a link inside", "a hard link", "empty") else (file,)
            yield Mutant("files", f"{file}: {what}", lambda f, n=file, c=change: c(f / n), names)
    for suffix in (".bin", ".pt", ".pth"):
        yield Mutant("pickle", suffix, lambda folder, s=suffix: damage.pickle(folder, s))


def changing_files(sound: Sound) -> Iterator[Mutant]:
    for file in sound.files:
        for after in (1, 2, 5, 20, 60):
            for what, change in (
                ("truncated", lambda p: os.truncate(p, p.stat().st_size - 1)),
                ("emptied", lambda p: os.truncate(p, 0)),
                ("grown", lambda p: os.truncate(p, p.stat().st_size + 4096)),
                ("written", damage.write_in_place),
                ("replaced", damage.replace),
                ("removed", lambda p: p.unlink()),
                ("a FIFO", damage.fifo),
            ):
                apply: Edit = lambda folder, f=file, c=change: c(folder / f)  # noqa: E731
                yield Mutant("changing", f"{file} {what} at read {after}", apply, (), after)


def configs(sound: Sound) -> Iterator[Mutant]:
    for field in (
        "num_hidden_layers",
        "hidden_size",
        "head_dim",
        "q_lora_rank",
        "o_groups",
        "o_lora_rank",
        "num_attention_heads",
        "n_routed_experts",
        "moe_intermediate_size",
        "vocab_size",
        "hc_mult",
        "index_n_heads",
        "index_head_dim",
    ):
        for value in (0, -1, 1 << 70, "x", None, 7, 96):
            edit = damage.config(lambda c, f=field, v=value: c.update({f: v}))
            yield Mutant("config", f"{field} = {value}", edit)
    for text in ("", "{", "[]", "null", '{"a": 1, "a": 2}', "[" * 5000, "\ud800"[:0] + "\0"):
        yield Mutant("config", ascii(text[:12]), damage.text("config.json", text), ("config.json",))
    for claim in (
        {"quantization_config": {"quant_method": "awq"}},
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}},
        {"quantization_config": {"quant_algo": "NVFP4", "ignore": ["*"]}},
        {"quantization_config": {"quant_algo": "NVFP4", "group_size": 32}},
        {"expert_dtype": "fp8"},
        {"expert_dtype": "fp4"},
        {"expert_dtype": "bf16"},
    ):
        yield Mutant("description", str(claim), damage.config(lambda c, x=claim: c.update(x)))
    for text in (
        "",
        "{",
        "[]",
        "{}",
        '{"quantization": {"quant_algo": "FP8"}}',
        '{"quantization": 3}',
    ):
        yield Mutant("description", text, damage.text("hf_quant_config.json", text))
