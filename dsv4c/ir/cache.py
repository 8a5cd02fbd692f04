"""Byte layouts of the paged KV and index caches.

A page holds `page` entries of `width` values. Entry j of a cache is entry j % page of page
j // page; an index of -1 means no entry. Layouts:

- `f32`, `bf16`: [pages, page, width] of that dtype.
- `fp8`: per page first the data of all entries (E4M3 of the leading dims, then the rope dims as
  little-endian bf16), then the scale bytes of all entries (one E8M0 per 64 leading dims, zero-padded
  to a multiple of 8), then padding to a whole number of entry data sizes, so that the buffer can be
  addressed as rows of one entry (576 bytes for DeepSeek-V4).
- `mxfp4`: per page the packed codes of all entries, then one E8M0 per 32 dims of all entries.

Geometry needs no torch, so that a graph can be read without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsv4c.errors import DsvError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FP8_BLOCK = 64
MXFP4_BLOCK = 32
# Least amax of a block, as in DeepSeek's reference quantiser; bounds the scale byte from below.
FP8_AMAX_FLOOR = 1e-4
_SCALE_ALIGN = 8

# Bytes of a value; torch's name.
_PLAIN = {"f32": (4, "float32"), "bf16": (2, "bfloat16")}


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """Layout of one cache.

    Attributes:
        format: "f32", "bf16", "fp8" or "mxfp4".
        width: values per entry.
        rope: trailing values that fp8 keeps in bf16; the plain formats ignore it, mxfp4 wants 0.
        page: entries per page.

    Raises:
        DsvError: DSV301, the format cannot hold this width.
    """

    format: str
    width: int
    rope: int
    page: int

    def __post_init__(self) -> None:
        wanted = {
            "f32": (True, "a positive width"),
            "bf16": (True, "a positive width"),
            "fp8": (self._nope % FP8_BLOCK == 0 < self._nope, f"width - rope in {FP8_BLOCK}s"),
            "mxfp4": (
                self.width % MXFP4_BLOCK == self.rope == 0,
                f"width in {MXFP4_BLOCK}s, rope 0",
            ),
        }
        fits, expected = wanted.get(self.format, (False, f"a format of {', '.join(wanted)}"))
        if not fits or not 0 <= self.rope <= self.width or self.width < 1 or self.page < 1:
            raise DsvError(
                "DSV301",
                "no cache layout for such entries",
                expected=expected,
                found=f"{self.format}, width {self.width}, rope {self.rope}, page {self.page}",
            )

    @property
    def dtype(self) -> torch.dtype:
        """Storage dtype of the buffer."""
        import torch

        dtype: torch.dtype = getattr(torch, _PLAIN.get(self.format, (1, "uint8"))[1])
        return dtype

    @property
    def data_bytes(self) -> int:
        """Bytes of one entry without its scales."""
        if self.format == "fp8":
            return self._nope + 2 * self.rope
        if self.format == "mxfp4":
            return self.width // 2
        return self.width * _PLAIN[self.format][0]

    @property
    def scale_bytes(self) -> int:
        """Scale bytes of one entry."""
        if self.format == "fp8":
            return -(-self._nope // (FP8_BLOCK * _SCALE_ALIGN)) * _SCALE_ALIGN
        return self.width // MXFP4_BLOCK if self.format == "mxfp4" else 0

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry, data and scales."""
        return self.data_bytes + self.scale_bytes

    @property
    def page_bytes(self) -> int:
        """Bytes of one page, padding included."""
        used = self.page * self.entry_bytes
        return used + (-used % self.data_bytes if self.format == "fp8" else 0)

    def shape(self, pages: int) -> tuple[int, ...]:
        """Shape of a buffer of `pages` pages."""
        if self.format in _PLAIN:
            return (pages, self.page, self.width)
        return (pages, self.page_bytes)

    def alloc(self, pages: int, device: torch.device | str = "cpu") -> Tensor:
        """A zeroed buffer of `shape(pages)`."""
        import torch

        return torch.zeros(self.shape(pages), dtype=self.dtype, device=device)

    def encode(self, x: Tensor) -> Tensor:
        """Entries of values.

        fp8 rounds x to bf16, then quantises the leading dims in blocks of 64: a = max(amax, 1e-4),
        scale = 2^ceil(log2(a / 448)). mxfp4 follows `dsv4c.ir.formats.quantize_mxfp4`.

        Args:
            x: floating point [..., width].

        Returns:
            uint8 [..., entry_bytes], data then scales; plain formats: the values in `dtype`.
        """
        import torch

        from dsv4c.ir.formats import quantize_e4m3_blocks, quantize_mxfp4

        if self.format == "mxfp4":
            return torch.cat(quantize_mxfp4(x, MXFP4_BLOCK), dim=-1)
        if self.format != "fp8":
            return x.to(self.dtype)
        x = x.to(torch.bfloat16)
        nope, rope = x.split((self._nope, self.rope), dim=-1)
        data, scale = quantize_e4m3_blocks(nope, FP8_BLOCK, FP8_AMAX_FLOOR)
        scale = torch.nn.functional.pad(scale, (0, self.scale_bytes - scale.shape[-1]))
        return torch.cat((data, rope.contiguous().view(torch.uint8), scale), dim=-1)

    def decode(self, entries: Tensor) -> Tensor:
        """Exact float32 [..., width] of entries as `encode` makes them."""
        import torch

        from dsv4c.ir.formats import decode_e4m3, decode_e8m0, dequantize_mxfp4

        if self.format == "mxfp4":
            return dequantize_mxfp4(*entries.split((self.data_bytes, self.scale_bytes), dim=-1))
        if self.format != "fp8":
            return entries.to(torch.float32)
        nope, rope, scale = entries.split((self._nope, 2 * self.rope, self.scale_bytes), dim=-1)
        x = torch.empty(*entries.shape[:-1], self.width, device=entries.device)
        blocks = x[..., : self._nope].unflatten(-1, (-1, FP8_BLOCK))
        blocks.copy_(decode_e4m3(nope).unflatten(-1, (-1, FP8_BLOCK)))
        blocks.mul_(decode_e8m0(scale[..., : self._nope // FP8_BLOCK]).unsqueeze(-1))
        x[..., self._nope :] = rope.contiguous().view(torch.bfloat16)
        return x

    def insert(self, buffer: Tensor, entries: Tensor, index: Tensor) -> None:
        """Write entries in place.

        Args:
            buffer: as `alloc` makes it.
            entries: [n, ...] as `encode` makes them.
            index: integer [n], global entry index, -1 to skip; no index twice.
        """
        keep = index >= 0
        index, entries = index[keep].long(), entries[keep]
        page, slot = index // self.page, index % self.page
        if self.format in _PLAIN:
            buffer[page, slot] = entries
            return
        data, scale = self._parts(buffer)
        data[page, slot], scale[page, slot] = entries.split(
            (self.data_bytes, self.scale_bytes), dim=-1
        )

    def gather(self, buffer: Tensor, index: Tensor) -> Tensor:
        """Decoded entries.

        Args:
            buffer: as `alloc` makes it, at least one page.
            index: integer [...], global entry index or -1.

        Returns:
            float32 [..., width]; zeros where the index is -1, whatever the cache holds.
        """
        import torch

        safe = index.clamp_min(0).long()
        page, slot = safe // self.page, safe % self.page
        if self.format in _PLAIN:
            entries = buffer[page, slot]
        else:
            entries = torch.cat([part[page, slot] for part in self._parts(buffer)], dim=-1)
        return self.decode(entries).masked_fill_((index < 0).unsqueeze(-1), 0.0)

    @property
    def _nope(self) -> int:
        return self.width - self.rope

    def _parts(self, buffer: Tensor) -> tuple[Tensor, Tensor]:
        """Views [pages, page, data_bytes] and [pages, page, scale_bytes] of a byte buffer."""
        split = self.page * self.data_bytes
        end = self.page * self.entry_bytes
        data = buffer[:, :split].unflatten(1, (self.page, self.data_bytes))
        return data, buffer[:, split:end].unflatten(1, (self.page, self.scale_bytes))
