"""Choosing the next token of each row: greedy, or top-k and top-p at a temperature, seeded.

All sums are of integers and all floats are single fp32 operations, so that every implementation of
these rules chooses the same token:

- A logit that is NaN counts as -inf, infinity as the largest float. -inf is never chosen; a row of
  nothing else gives token 0.
- A temperature that is not above 0 chooses the largest logit, the lowest index of equal ones.
- Else token i weighs w_i = floor(2^31 * 2^x_i), x_i = (l_i - max l) * (log2(e) / temperature), where
  2^x is `exp2_weights`. Tokens of less than 2^-31 of the best weigh nothing.
- Tokens stand in the order of their logits, equal ones in that of their indices. top_k > 0 keeps the
  first top_k of them, then top_p < 1 the fewest that weigh at least top_p of what was kept.
- u is the first word of Philox-4x32-10 with the key `seed` and the counter (position, 0, 0, 0). The
  token is the first, by index, up to which the kept ones weigh more than floor(u / 2^32 * sum).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dsv4c.ir.op import Arg, OpSpec, register
from dsv4c.ir.values import Context

LOG2_E = 1.4426950216293335  # rounded to fp32
MOST = 3.4028234663852886e38
# (2^f - 1) / f on [0, 1], off by less than 2^-23 when each step is rounded to fp32.
EXP2 = (
    *(2.082919527310878e-4, 1.2689351569861174e-3, 9.652440436184406e-3),
    *(5.5495936423540115e-2, 0.24022722244262695, 0.6931471824645996),
)
_MASK = (1 << 32) - 1


def sample(
    ctx: Context,
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seed: Tensor,
    position: Tensor,
) -> Tensor:
    columns = (temperature, top_k, top_p, seed, position)
    known = logits.cpu().float()
    ids = _ordered(known).argmax(-1)
    rows = zip(known, *(column.tolist() for column in columns), strict=True)
    for place, (row, heat, *rest) in enumerate(rows):
        if heat > 0:
            ids[place] = sample_row(row, heat, *rest)
    return ids.to(logits.device, torch.int32)


def sample_row(
    logits: Tensor, temperature: float, top_k: int, top_p: float, seed: list[int], position: int
) -> int:
    """The token of one row; see the module.

    Args:
        logits: f32 [V], on the CPU.
        temperature: an fp32 number.
        top_k: 0 or less for all tokens.
        top_p: an fp32 number; 1 or more for all tokens.
        seed: the low and the high word of the key, as i32.
        position: of the token in its sequence, as i32.
    """
    logits = _ordered(logits)
    best = logits.max()
    if not temperature > 0 or best == -torch.inf:
        return int(logits.argmax())
    weights = exp2_weights((logits - best) * _per_bit(temperature))
    order = logits.argsort(descending=True, stable=True)
    order = order[: int((logits > -torch.inf).sum())]
    order = order[:top_k] if top_k > 0 else order
    sums = weights[order].cumsum(0)
    if not top_p >= 1:
        least = max(_share(int(sums[-1]), int(max(0.0, top_p) * 2**32)), 1)
        order = order[: int(torch.searchsorted(sums, least)) + 1]
    order = order.sort().values
    sums = weights[order].cumsum(0)
    drawn = philox(seed[0] & _MASK, seed[1] & _MASK, position & _MASK)
    return int(order[torch.searchsorted(sums, _share(int(sums[-1]), drawn), right=True)])


def exp2_weights(x: Tensor) -> Tensor:
    """floor(2^31 * 2^x), i64, of f32 x at most 0; 0 for x below -31 and for NaN."""
    whole = x.floor()
    part = x - whole
    value = torch.full_like(part, EXP2[0])
    for term in (*EXP2[1:], 1.0):
        value = value * part + term
    mantissa = (value * 2**23).nan_to_num(0).to(torch.int64)
    shift = -whole.clamp(min=-32).nan_to_num(-32).to(torch.int64)
    return torch.where(x >= -31, (mantissa << 8) >> shift, 0)


def philox(low: int, high: int, position: int) -> int:
    """First word of Philox-4x32-10 (Salmon et al., 2011) with key (low, high), counter (position, 0, 0, 0)."""
    counter, key = [position, 0, 0, 0], [low, high]
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            *((b >> 32) ^ counter[1] ^ key[0], b & _MASK),
            *((a >> 32) ^ counter[3] ^ key[1], a & _MASK),
        ]
        key = [(key[0] + 0x9E3779B9) & _MASK, (key[1] + 0xBB67AE85) & _MASK]
    return counter[0]


def _ordered(logits: Tensor) -> Tensor:
    """NaN as -inf, infinity as the largest float; argmax then takes the first of equal ones."""
    return logits.nan_to_num(-torch.inf, MOST, -torch.inf)


def _per_bit(temperature: float) -> Tensor:
    """log2(e) / temperature in fp32, at most the largest float."""
    return (torch.tensor(LOG2_E) / torch.tensor(temperature)).clamp(max=MOST)


def _share(total: int, part: int) -> int:
    """floor(total * part / 2^32)."""
    return total * part >> 32


register(
    OpSpec(
        "sample",
        "one token id per row: greedy where temperature is not above 0, else the first top_k (if above"
        " 0), of these the fewest with top_p of the probability, of these one by Philox(seed, position)",
        (
            Arg("logits", "R V", dtype="f32"),
            Arg("temperature", "R", dtype="f32"),
            Arg("top_k", "R", dtype="i32"),
            Arg("top_p", "R", dtype="f32"),
            Arg("seed", "R 2", dtype="i32"),
            Arg("position", "R", dtype="i32"),
        ),
        (Arg("ids", "R", dtype="i32"),),
        sample,
        flops=lambda dims, attrs: 20.0 * dims["R"] * dims["V"],
    )
)
