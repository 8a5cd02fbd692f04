"""Cache layouts: bytes where they belong, values that come back, arithmetic of pages."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4c.errors import DsvError
from dsv4c.ir.cache import CacheLayout
from dsv4c.ir.formats import decode_e4m3, decode_e8m0, fake_quant_mxfp4

KV_PAGES = {128: 74_880, 32: 19_008, 1: 1_152}


def kv(fmt: str, page: int = 32) -> CacheLayout:
    return CacheLayout(fmt, 512, 64, page)


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize(("page", "nbytes"), KV_PAGES.items())
def test_fp8_page_sizes(page: int, nbytes: int) -> None:
    layout = kv("fp8", page)
    assert (layout.entry_bytes, layout.page_bytes, layout.shape(7)) == (584, nbytes, (7, nbytes))


def test_other_page_sizes() -> None:
    assert kv("bf16").page_bytes == 32 * 1024
    assert kv("f32").shape(3) == (3, 32, 512)
    assert CacheLayout("mxfp4", 128, 0, 32).page_bytes == 32 * 68


def test_fp8_bytes_land_in_their_planes() -> None:
    """Distinct tags: data of entry j at 576 j, its scales at 576 N + 8 j, nothing else touched."""
    layout = kv("fp8")
    buffer = torch.full(layout.shape(3), 0xAA, dtype=torch.uint8)
    entries = torch.empty(2, 584, dtype=torch.uint8)
    entries[0, :576], entries[0, 576:] = 1, 2
    entries[1, :576], entries[1, 576:] = 3, 4
    layout.insert(buffer, entries, torch.tensor([32 + 5, 64 + 31], dtype=torch.int32))
    expected = torch.full(layout.shape(3), 0xAA, dtype=torch.uint8)
    for page, slot, data, scale in ((1, 5, 1, 2), (2, 31, 3, 4)):
        expected[page, 576 * slot : 576 * (slot + 1)] = data
        start = 576 * 32 + 8 * slot
        expected[page, start : start + 8] = scale
    assert torch.equal(buffer, expected)


def test_mxfp4_bytes_land_in_their_planes() -> None:
    layout = CacheLayout("mxfp4", 128, 0, 32)
    buffer = layout.alloc(2)
    entries = torch.arange(68).to(torch.uint8)[None] + 1
    layout.insert(buffer, entries, torch.tensor([32 + 3]))
    assert buffer[1, 3 * 64 : 4 * 64].tolist() == list(range(1, 65))
    assert buffer[1, 32 * 64 + 3 * 4 : 32 * 64 + 4 * 4].tolist() == [65, 66, 67, 68]
    assert int(buffer.count_nonzero()) == 68


def test_fp8_entry_follows_the_formula() -> None:
    x = values(5, 512)
    x[1, :64] = 0.0
    x[2, 64:128] = torch.linspace(-448 * 4, 448 * 4, 64)
    entry = kv("fp8").encode(x)
    rounded = x.bfloat16()
    for row in range(5):
        for block in range(7):
            piece = rounded[row, block * 64 : block * 64 + 64].double()
            amax = max(float(piece.abs().max()), 1e-4)
            exponent = int(torch.tensor(amax / 448, dtype=torch.float64).log2().ceil())
            assert int(entry[row, 576 + block]) == exponent + 127
            expected = (piece / 2.0**exponent).to(torch.float32).to(torch.float8_e4m3fn)
            stored = entry[row, block * 64 : block * 64 + 64]
            assert torch.equal(decode_e4m3(stored), expected.to(torch.float32))
    assert entry[1, 576].item() == 105  # floor 1e-4: 2^-22
    assert entry[:, 583].tolist() == [0] * 5
    assert torch.equal(entry[:, 448:576].contiguous().view(torch.bfloat16), rounded[:, 448:])


def test_fp8_decode_is_exact() -> None:
    layout = kv("fp8")
    entry = layout.encode(values(9, 512))
    nope = decode_e4m3(entry[:, :448]).unflatten(-1, (7, 64))
    expected = nope * decode_e8m0(entry[:, 576:583]).unsqueeze(-1)
    assert torch.equal(layout.decode(entry)[:, :448], expected.flatten(-2))
    assert torch.equal(layout.decode(layout.encode(layout.decode(entry))), layout.decode(entry))


@pytest.mark.parametrize(
    ("layout", "exact"),
    [
        (kv("f32"), values(6, 512)),
        (kv("bf16"), values(6, 512).bfloat16().float()),
        (CacheLayout("mxfp4", 128, 0, 32), fake_quant_mxfp4(values(6, 128))),
        (CacheLayout("fp8", 192, 64, 4), None),
        (CacheLayout("fp8", 704, 64, 8), None),
    ],
    ids=["f32", "bf16", "mxfp4", "fp8-192", "fp8-704"],
)
def test_what_goes_in_comes_out(layout: CacheLayout, exact: torch.Tensor | None) -> None:
    x = values(6, layout.width)
    buffer = layout.alloc(4)
    index = torch.tensor([0, layout.page, -1, 2 * layout.page - 1, 3 * layout.page, 1])
    layout.insert(buffer, layout.encode(x), index)
    got = layout.gather(buffer, index.reshape(2, 3)).flatten(0, 1)
    expected = layout.decode(layout.encode(x)) if exact is None else exact.clone()
    expected[2] = 0.0
    assert torch.equal(got, expected)
    assert float((got - x).abs()[index >= 0].max()) < 2.0


def test_missing_entries_read_zero_from_a_poisoned_cache() -> None:
    for layout in (kv("fp8"), kv("bf16"), kv("f32"), CacheLayout("mxfp4", 128, 0, 32)):
        buffer = layout.alloc(2)
        buffer.view(torch.uint8).fill_(0xFF)
        assert float(layout.gather(buffer, torch.full((3, 4), -1)).abs().max()) == 0.0


def test_float64_input_is_accepted() -> None:
    x = values(3, 512).double()
    assert torch.equal(kv("fp8").encode(x), kv("fp8").encode(x.float()))


@settings(max_examples=60, deadline=None)
@given(
    page=st.sampled_from([1, 2, 32, 64, 128]),
    wide=st.tuples(st.integers(1, 10), st.sampled_from([0, 2, 8, 64])),
    pages=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_page_arithmetic(page: int, wide: tuple[int, int], pages: int, seed: int) -> None:
    """Entries tile a page without overlap, and any subset in any order comes back."""
    layout = CacheLayout("fp8", 64 * wide[0] + wide[1], wide[1], page)
    assert layout.page_bytes % layout.data_bytes == 0
    assert 0 <= layout.page_bytes - page * layout.entry_bytes < layout.data_bytes
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(pages * page, generator=generator)[: 1 + seed % 40]
    entries = torch.randint(0, 127, (len(order), layout.entry_bytes), generator=generator)
    entries = entries.to(torch.uint8)
    buffer = layout.alloc(pages)
    layout.insert(buffer, entries, order)
    assert torch.equal(layout.gather(buffer, order), layout.decode(entries))
    assert int(buffer.count_nonzero()) == int(entries.count_nonzero())


def test_pages_beyond_two_gigabytes() -> None:
    """Offsets are 64-bit; only the touched pages of the sparse buffer become resident."""
    layout = kv("fp8", 128)
    pages = 2**31 // layout.page_bytes + 2
    buffer = torch.empty(layout.shape(pages), dtype=torch.uint8)
    index = torch.tensor([pages * 128 - 1, 7], dtype=torch.int32)
    entries = layout.encode(values(2, 512))
    layout.insert(buffer, entries, index)
    assert torch.equal(layout.gather(buffer, index), layout.decode(entries))


@pytest.mark.parametrize(
    ("fmt", "width", "rope"),
    [("fp8", 100, 64), ("fp8", 64, 64), ("mxfp4", 100, 0), ("mxfp4", 128, 64), ("int4", 64, 0)],
)
def test_unsupported_widths(fmt: str, width: int, rope: int) -> None:
    with pytest.raises(DsvError, match=f"width {width}") as error:
        CacheLayout(fmt, width, rope, 32)
    assert error.value.code == "DSV301"
