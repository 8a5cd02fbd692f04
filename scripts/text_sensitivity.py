"""How far the choices of a CPU plan move when its embedding moves by single bf16 steps.

usage: text_sensitivity.py PLAN [--share 0.01] [--tokens 64] [--seed 0]

The scale for `scripts/gpu_text.py`: a router's or an indexer's choice near a tie amplifies any
rounding. Prints the same summary, of the plan beside itself with that share of the embedding's
elements one bf16 step up or down.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "gpu")]

import greedy  # noqa: E402

from dsv4c.plan.plan import load_plan  # noqa: E402

if TYPE_CHECKING:
    from dsv4c.plan.plan import Plan


def disturb(plan: Plan, share: float, seed: int) -> int:
    """Move elements of the embedding by a bf16 step, for all sessions of the plan; how many."""
    embed = plan.session(max_sequences=1, max_tokens=64).executor.constants["embed"]
    bits = embed.stored[0].view(torch.int16)
    make = torch.Generator().manual_seed(seed)
    moved = torch.rand(bits.shape, generator=make) < share
    steps = torch.where(torch.rand(bits.shape, generator=make) < 0.5, 1, -1).to(torch.int16)
    bits += torch.where(moved, steps, 0).to(torch.int16)
    return int(moved.sum())


def main() -> None:
    """Compare the plan with itself."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=Path)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    plan, other = load_plan(given.plan), load_plan(given.plan)
    print(f"{disturb(other, given.share, given.seed)} elements moved")
    print(json.dumps(greedy.summary(list(greedy.compare(plan, other, given.tokens))), indent=1))


if __name__ == "__main__":
    main()
