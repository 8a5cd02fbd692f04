"""Compare compiled plans in exact mode with transformers in fp32, on random small models.

usage: parity.py [--first 0] [--count 36] [--threads 1]

Every model is saved by transformers, compiled for `cpu` with float32 activations and an f32 cache,
and given the same tokens in four ways: whole prefill, prefill in random chunks, one by one, and in
a batch of 5 sequences of other lengths and contents (one ragged step over their prompts, then
decode). Each cell is the largest difference of any logit at any position. Exit status 1 if one is
above 2e-4, or if an argmax differs where the oracle's two best logits are further apart than that.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "models")]

import drive  # noqa: E402
import oracle  # noqa: E402
import torch  # noqa: E402

import dsv4c  # noqa: E402

BOUND = 2e-4
WAYS = ("whole", "chunks", "one by one", "batch of 5")
COLUMNS = ("model", "layers", "hash", "tokens", "m", "window", "top-k / entries", *WAYS, "argmax")


@dataclass(frozen=True, slots=True)
class Parity:
    """One model.

    Attributes:
        case: its configuration.
        differences: the largest logit difference by way.
        positions: compared, all ways together.
        margins: how far apart the oracle's two best logits are where the argmax differs.
    """

    case: oracle.Case
    differences: dict[str, float]
    positions: int
    margins: list[float]

    @property
    def ok(self) -> bool:
        return max([*self.differences.values(), *self.margins]) <= BOUND

    def cells(self) -> list[str]:
        """The row of the table."""
        case = self.case
        csa, hca = case.rates
        topk = f"{case.fields['index_topk']} / {case.tokens // csa}" if "csa" in case.kinds else ""
        return [
            str(case.number),
            " ".join(case.kinds),
            str(case.hash_layers),
            str(case.tokens),
            f"{csa}, {hca}",
            str(case.fields["sliding_window"]),
            topk,
            *(f"{self.differences[way]:.1e}" for way in WAYS),
            self._argmax(),
        ]

    def _argmax(self) -> str:
        if not self.margins:
            return "100 %"
        flips = len(self.margins)
        share = 1 - flips / self.positions
        return f"{share:.2%}: {flips} of {self.positions} differ, margin {max(self.margins):.0e}"


def compare(number: int) -> Parity:
    """Run model `number` in all four ways."""
    case = oracle.case(number)
    made, ids = oracle.model(case), oracle.tokens(case)
    with tempfile.TemporaryDirectory() as folder:
        oracle.save(made, Path(folder) / "model")
        plan = dsv4c.compile(
            Path(folder) / "model", Path(folder) / "plan", dtype="float32", kv_cache="f32"
        )
        others, prompts = _batch(case, ids)
        got = {
            "whole": [drive.in_parts(plan, ids, [len(ids)])],
            "chunks": [drive.in_parts(plan, ids, drive.random_parts(len(ids), number))],
            "one by one": [drive.one_by_one(plan, ids)],
            "batch of 5": drive.in_batch(plan, others, prompts),
        }
    wanted = {way: [oracle.logits(made, ids)] for way in WAYS[:3]}
    wanted["batch of 5"] = [oracle.logits(made, other) for other in others]
    pairs = {way: (torch.cat(got[way]), torch.cat(wanted[way])) for way in WAYS}
    differences = {way: (a - b).abs().max().item() for way, (a, b) in pairs.items()}
    margins = torch.cat([_margins(a, b) for a, b in pairs.values()])
    return Parity(case, differences, sum(len(a) for a, _ in pairs.values()), margins.tolist())


def _margins(got: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Distance of the two best wanted logits at each position where the argmax differs."""
    best = wanted.topk(2).values
    return (best[:, 0] - best[:, 1])[got.argmax(-1) != wanted.argmax(-1)]


def _batch(case: oracle.Case, ids: list[int]) -> tuple[list[list[int]], list[int]]:
    """Five sequences, the given one in their middle, and the lengths of their prompts."""
    draw = random.Random(case.number)
    vocab = case.fields["vocab_size"]
    lengths = [draw.choice((1, 5, 40, 127, 130, oracle.LONGEST_OTHER)) for _ in range(4)]
    others = [[draw.randrange(vocab) for _ in range(n)] for n in lengths]
    sequences = [*others[:2], ids, *others[2:]]
    prompts = [max(1, min(len(s) - draw.choice((0, 3, 9)), 100)) for s in sequences]
    return sequences, prompts


def table(rows: Sequence[Parity]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "|" + "---|" * len(COLUMNS)
    for row in rows:
        yield "| " + " | ".join(row.cells()) + " |"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=36)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows: list[Parity] = []
    for number in range(given.first, given.first + given.count):
        rows.append(compare(number))
        print(f"{rows[-1].case} {rows[-1].differences}", file=sys.stderr, flush=True)
    print("\n".join(table(rows)))
    worst = max(max(row.differences.values()) for row in rows)
    print(f"\n{sum(row.ok for row in rows)} of {len(rows)} within {BOUND:g}; worst {worst:.2e}")
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
