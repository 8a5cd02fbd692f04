"""Mutants of one safetensors file: header, layout, names, values."""

from __future__ import annotations

from collections.abc import Iterator

import damage
from sound import Mutant, Sound

EDGE = 4096


def lengths(sound: Sound) -> Iterator[Mutant]:
    for file in sound.files:
        size = (sound.folder / file).stat().st_size
        true = int.from_bytes((sound.folder / file).read_bytes()[:8], "little")
        for length in (
            0,
            1,
            7,
            true - 8,
            true - 1,
            true + 1,
            true + 8,
            size - 8,
            size - 7,
            size,
        ):
            yield Mutant(
                "header length", str(length), damage.patch(file, 0, damage.u64(length)), (file,)
            )
        for length in (100_000_001, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
            yield Mutant(
                "header length", str(length), damage.patch(file, 0, damage.u64(length)), (file,)
            )


def header_bytes(sound: Sound) -> Iterator[Mutant]:
    """Single bits of the header, and whole headers that are no header."""
    for file in sound.files:
        raw = (sound.folder / file).read_bytes()
        length = int.from_bytes(raw[:8], "little")
        for _ in range(40):
            place = sound.random.randrange(8, 8 + length)
            flipped = bytes([raw[place] ^ (1 << sound.random.randrange(8))])
            what = f"bit of byte {place}: {raw[place]:02x} -> {flipped[0]:02x}"
            yield Mutant("header bits", what, damage.patch(file, place, flipped))
        for text in (
            "",
            "{",
            "[]",
            "null",
            "{" * 5000,
            "[" * 5000,
            '{"a": 1}',
            '{"__metadata__": 3}',
        ):
            yield Mutant(
                "header text", text[:20], damage.shard(file, lambda s, t=text: s.write(t)), (file,)
            )


def header_entries(sound: Sound) -> Iterator[Mutant]:
    for name in sound.pick(6):
        file, (start, stop) = sound.places[name], sound.entry(name)["data_offsets"]
        where = (file, name)
        for a, b in ((0, 1), (1, 0), (1, 1), (-1, -1), (-start, -start), (0, 1 << 40), (0, -1)):
            offsets = [start + a, stop + b]
            if offsets != [start, stop]:
                change = damage.field(file, name, "data_offsets", offsets)
                yield Mutant("offsets", f"{name} {offsets}", change, (file,))
        for offsets in ([stop, start], [start], [], None, "x", [start, stop, stop], [0.5, 1.5]):
            if offsets != [start, stop]:
                change = damage.field(file, name, "data_offsets", offsets)
                yield Mutant(
                    "offsets", f"{name} {offsets}", change, where if stop > start else (file,)
                )
        for key in ("dtype", "shape", "data_offsets"):
            change = damage.entry(file, name, lambda e, k=key: e.pop(k))
            yield Mutant("header entry", f"{name} without {key}", change, where)
        extra = damage.entry(file, name, lambda e: e.update(strides=[1]))
        yield Mutant("header entry", f"{name} with strides", extra, where)
        yield Mutant(
            "duplicate", name, damage.shard(file, lambda s, n=name: damage.duplicate(s, n)), where
        )
        hole = damage.shard(file, lambda s, n=name: damage.insert(s, n, 8))
        yield Mutant("hole", f"8 bytes before {name}", hole, (file,))
        overlap = damage.shard(file, lambda s, n=name: damage.insert(s, n, -1))
        yield Mutant("overlap", f"1 byte before {name}", overlap, (file,))


def truncations(sound: Sound) -> Iterator[Mutant]:
    for file in sound.files:
        size = (sound.folder / file).stat().st_size
        edges = {e + d for e in range(0, size + EDGE, EDGE) for d in (-1, 0, 1)}
        for length in sorted(edges | {size - 1, size + 1}):
            if 0 <= length != size:
                yield Mutant(
                    "truncation", f"{file} to {length}", damage.truncate(file, length), (file,)
                )


def dtypes_and_shapes(sound: Sound) -> Iterator[Mutant]:
    same_size = {
        "BF16": ("F16", "I16", "U16"),
        "F32": ("I32", "U32"),
        "I64": ("F64", "U64"),
        "F8_E4M3": ("F8_E5M2", "F8_E8M0", "U8", "I8", "BOOL"),
        "F8_E8M0": ("F8_E4M3", "U8"),
        "U8": ("I8", "F8_E4M3", "F8_E8M0"),
        "I8": ("U8", "F8_E5M2", "BOOL"),
    }
    for name in sound.pick(14):
        file, entry = sound.places[name], sound.entry(name)
        for dtype in (*same_size[entry["dtype"]], "F4", "", 3):
            change = damage.field(file, name, "dtype", dtype)
            yield Mutant("dtype", f"{name} {entry['dtype']} -> {dtype}", change, (file, name))
        for shape in damage.other_shapes(entry["shape"]):
            change = damage.field(file, name, "shape", shape)
            yield Mutant("shape", f"{name} {entry['shape']} -> {shape}", change, (file, name))


def names(sound: Sound) -> Iterator[Mutant]:
    for name in sound.pick(12):
        file = sound.places[name]
        rest = damage.drop(file, name)
        yield Mutant("missing", name, sound.consistent(rest), (_stem(name),))
        for new in (f"{name}x", f"x.{name}", name.replace(".", "_"), name[:-1], name.upper()):
            change = sound.consistent(damage.rename(file, name, new))
            yield Mutant("renamed", f"{name} -> {new}", change, (_stem(name),))
        for new in ("", "\x1b[31m", "a\nb", "\ud800", "ä"):
            change = sound.consistent(damage.rename(file, name, new))
            yield Mutant("renamed", f"{name} -> {new!a}", change)
    for file in sound.files:
        for new in ("extra.weight", "layers.3.attn_norm.weight", "layers.0.attn.wq_c.weight"):
            change = sound.consistent(damage.add(file, new))
            yield Mutant("extra", new, change, (file, new))


def _stem(name: str) -> str:
    """What a refusal names at least of a tensor that is not there: its official layer or name."""
    parts = name.removeprefix("model.").split(".")
    return ".".join(parts[:2]) if parts[0] == "layers" else ""


def values(sound: Sound) -> Iterator[Mutant]:
    bad: dict[str, tuple[bytes, ...]] = {
        "BF16": (b"\xc0\x7f", b"\x80\x7f", b"\x80\xff"),
        "F32": (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff"),
    }
    for name in sound.pick(60):
        dtype, scale = sound.entry(name)["dtype"], "scale" in name.rpartition(".")[2]
        choices = bad.get(dtype, ())
        if dtype == "F8_E4M3":
            choices = (b"\x7f", b"\xff", b"\x80", b"\xb8") if scale else (b"\x7f", b"\xff")
        elif dtype == "F8_E8M0":
            choices = (b"\xff", b"\xfe", b"\xfd")
        elif dtype == "F32" and scale and "hc" not in name:
            choices = (*choices, b"\x00\x00\x80\xbf", b"\x00\x00\x00\x7f")
        size = max(len(choice) for choice in choices) if choices else 1
        start, stop = sound.entry(name)["data_offsets"]
        for value in choices:
            place = start + sound.random.randrange((stop - start) // size) * size
            file = sound.places[name]
            base = (sound.folder / file).stat().st_size - len(sound.shards[file].data)
            change = damage.patch(file, base + place, value)
            yield Mutant("value", f"{name} {value.hex()}", change, (file, name))
