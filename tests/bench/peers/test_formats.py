"""How operands of other implementations are laid out."""

from __future__ import annotations

import math

import torch

from dsv4c.bench.peers import flashmla, insert, marlin, marlin_weights
from dsv4c.codegen.kernels import sparse_attention
from dsv4c.ir.weight_codecs import dequantize


def test_a_page_holds_all_data_then_all_scales() -> None:
    data = torch.arange(128 * 576).remainder(251).to(torch.uint8).view(128, 576)
    scales = torch.arange(128 * 8).remainder(127).to(torch.uint8).view(128, 8)
    pages = flashmla.paged((data, scales), 64, flashmla.STRIDE)
    assert pages.shape == (2, 37440)
    entry = 70
    page, row = divmod(entry, 64)
    assert torch.equal(pages[page, row * 576 : (row + 1) * 576], data[entry])
    start = 64 * 576 + row * 8
    assert torch.equal(pages[page, start : start + 8], scales[entry])
    assert sparse_attention.page_bytes(64, "fp8") == flashmla.STRIDE


def test_rows_with_an_exact_norm() -> None:
    row = insert.exact_row()
    assert len(row) == 512
    assert sum(n * n for n in row) == 512 * 64**2
    # bf16 holds them, and what the norm makes of them.
    values = torch.tensor(row, dtype=torch.float64)
    assert torch.equal(values.bfloat16().double(), values)
    assert torch.equal((values / 64).bfloat16().double(), values / 64)
    assert values.unique().numel() > 50


def test_marlin_words_give_a_thread_its_operands() -> None:
    n, k = 128, 32
    codes = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8)
    words = marlin_weights.repacked(codes)
    assert words.shape == (k // 16, 2 * n)
    values = torch.stack((codes & 15, codes >> 4), -1).flatten(1)
    # Word `tile` of thread t in a block of 64 rows: A operands of m16n8k16, both halves of 16 rows.
    for block, thread, tile in ((0, 0, 0), (1, 9, 2), (0, 31, 3)):
        word = int(words[1, block * 128 + thread * 4 + tile]) & 0xFFFFFFFF
        nibbles = [(word >> 4 * i) & 15 for i in range(8)]
        row = block * 64 + tile * 16 + thread // 4
        first = 16 + 2 * (thread % 4)
        pairs = [
            (row + 8 * half, first + step + e) for e in (0, 1) for half in (0, 1) for step in (0, 8)
        ]
        assert nibbles == [int(values[at]) for at in pairs]


def test_marlin_scales_keep_their_values() -> None:
    scale = torch.randint(1, 0x60, (64, 4), dtype=torch.uint8)
    factor = marlin_weights.rescale(scale)
    assert factor == 2.0 ** math.floor(
        math.log2(448 / float(scale.view(torch.float8_e4m3fn).float().max()))
    )
    found = marlin_weights.scales(scale, factor)
    assert found.shape == (4, 64)
    # Eight bits below the sign of a half.
    high = found.view(torch.uint8).to(torch.int16) << 7
    values = high.view(torch.half).float() / factor / 2**7
    order = [i + 8 * j for i in range(8) for j in range(8)]
    wanted = scale.view(torch.float8_e4m3fn).float().T[:, order]
    wanted = wanted.reshape(-1, 4)[:, [0, 2, 1, 3]].reshape(4, 64)
    assert torch.equal(values, wanted)


def test_tokens_of_marlin_are_sorted_in_tiles() -> None:
    chosen = torch.tensor([[2, 0], [2, 1], [2, 0]])
    pairs, owners, length = marlin.aligned(chosen, 3, 4, "cpu")
    assert pairs.tolist() == [1, 5, 6, 6, 3, 6, 6, 6, 0, 2, 4, 6]
    assert owners.tolist() == [0, 1, 2]
    assert length.tolist() == [12]


def test_weights_of_experts_are_nvfp4_and_about_one() -> None:
    parts = (
        torch.randint(0, 256, (64, 32), dtype=torch.uint8),
        torch.randint(0x38, 0x46, (64, 4), dtype=torch.uint8),
        torch.tensor(1 / (6 * math.sqrt(64))),
    )
    dense = dequantize("nvfp4", parts, (64, 64)).double()
    sums = torch.randn(32, 64, dtype=torch.float64) @ dense.T
    assert 0.5 < float(sums.std()) < 3
