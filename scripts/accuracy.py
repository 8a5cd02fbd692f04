"""Measure how accurate compiled plans are, and write docs/accuracy.md from it.

usage: accuracy.py MODEL [--only SECTION] [--models 72] [--threads 2] [--out docs/accuracy.md]

MODEL is the BF16 checkpoint that examples/tiny-dsv4-nvfp4 was made from; eval.txt is read there.
Everything runs on the CPU: 10 to 20 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "models"), str(ROOT / "scripts")]

import oracle  # noqa: E402
import parity  # noqa: E402
import torch  # noqa: E402

import dsv4c  # noqa: E402
from dsv4c.checkpoint.quantize import quantize_checkpoint  # noqa: E402
from dsv4c.tokenizer import Tokenizer  # noqa: E402

EXAMPLE = ROOT / "examples" / "tiny-dsv4-nvfp4"
WINDOW, WINDOWS = 1024, 5
TOKENS = WINDOW * WINDOWS
# (weights, activations, cache); the first is what the others are compared with
MODES = (
    ("BF16", "float32", "f32"),
    ("BF16", "bfloat16", "bf16"),
    ("BF16", "bfloat16", "fp8"),
    ("NVFP4 + FP8", "float32", "f32"),
    ("NVFP4 + FP8", "bfloat16", "bf16"),
    ("NVFP4 + FP8", "bfloat16", "fp8"),
)

# (row, --experts, --attention) of `dsv4c quantize`
QUANTISED = (
    ("FP8 attention", "bf16", "fp8"),
    ("MXFP4 experts", "mxfp4", "bf16"),
    ("NVFP4 experts", "nvfp4", "bf16"),
    ("FP8 attention, MXFP4 experts", "mxfp4", "fp8"),
    ("FP8 attention, NVFP4 experts", "nvfp4", "fp8"),
    ("NVFP4 everywhere", "nvfp4", "nvfp4"),
)


@dataclass(frozen=True, slots=True)
class Fidelity:
    """A plan's predictions beside those of the exact plan of the BF16 weights."""

    nats: float
    kl: torch.Tensor
    top1: float

    def cells(self, base: float) -> list[str]:
        """Figures of one row of the table."""
        kl = (self.kl.mean().item(), self.kl.quantile(0.99).item(), self.kl.max().item())
        figures = [
            f"{self.nats:.4f}",
            f"{self.nats - base:+.4f}",
            *(f"{value:.4f}" for value in kl),
        ]
        return [*figures, f"{self.top1:.2%}"]


def windows(ids: list[int]) -> Iterator[list[int]]:
    """The inputs of each window."""
    yield from (ids[begin : begin + WINDOW] for begin in range(0, TOKENS, WINDOW))


def predictions(plan: dsv4c.Plan, ids: list[int]) -> torch.Tensor:
    """Logits, f32 [TOKENS, vocab]."""
    session = plan.session(max_sequences=1, max_tokens=WINDOW)
    parts: list[torch.Tensor] = []
    for window in windows(ids):
        slot = session.open()
        parts.append(session.prefill(slot, window, return_logits="all"))
        session.close(slot)
    return torch.cat(parts)


def fidelity(logits: torch.Tensor, base: torch.Tensor, ids: list[int]) -> Fidelity:
    """Compare logits with those of the exact plan."""
    q, p = logits.double().log_softmax(-1), base.double().log_softmax(-1)
    nats = torch.nn.functional.nll_loss(q, torch.tensor(ids[1:])).item()
    same = logits.argmax(-1) == base.argmax(-1)
    return Fidelity(nats, (p.exp() * (p - q)).sum(-1), same.double().mean().item())


def run_command(plan: Path, text: Path) -> tuple[str, float]:
    """What `dsv4c run` is called with and finds, as a user would."""
    command = ["dsv4c", "run", "PLAN", "--text", "eval.txt", "--limit", str(TOKENS), "--json"]
    real = {"PLAN": str(plan), "eval.txt": str(text), "dsv4c": "dsv4c"}
    arguments = [real.get(word, word) for word in command[1:]]
    done = subprocess.run(
        [sys.executable, "-m", "dsv4c", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["tokens"] == TOKENS
    return " ".join(command), found["nats_per_token"]


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def trained(model: Path, folder: Path) -> Iterator[str]:
    """Sections about the trained checkpoint."""
    text = model / "eval.txt"
    ids = Tokenizer.load(model).encode(text.read_text(encoding="utf-8"))[: TOKENS + 1]
    logits: list[torch.Tensor] = []
    for number, (weights, dtype, cache) in enumerate(MODES):
        source = model if weights == "BF16" else EXAMPLE
        plan = dsv4c.compile(source, folder / str(number), dtype=dtype, kv_cache=cache)
        logits.append(predictions(plan, ids))
        print(f"{weights} {dtype} {cache}", file=sys.stderr, flush=True)
    made = oracle.load(model)
    wanted = torch.cat([oracle.logits(made, window) for window in windows(ids)])
    theirs = fidelity(wanted, logits[0], ids)
    command, nats = run_command(folder / "0", text)
    yield f"""## The trained checkpoint against transformers

Text: eval.txt of the checkpoint, id 0 followed by the text's ids, {WINDOWS} windows of {WINDOW:,}
predictions. Plan: target `cpu`, float32 activations, f32 cache. Oracle: `DeepseekV4ForCausalLM` in
float32, eager.
"""
    difference = (wanted - logits[0]).abs().max().item()
    yield table(
        ("figure", "value"),
        [
            [f"`{command}`", f"{nats:.5f} nats per token"],
            ["transformers", f"{theirs.nats:.5f} nats per token"],
            [f"largest logit difference, {TOKENS:,} positions", f"{difference:.1e}"],
            ["equal argmax", f"{theirs.top1:.2%}"],
        ],
    )
    yield """
## Number formats

The same text. KL is that of the row's predictions from those of the first row, in nats per token:
KL(first || row). Weights NVFP4 + FP8 are those of examples/tiny-dsv4-nvfp4, which was quantised
without calibration. With an fp8 cache the indexer's vectors are MXFP4. A maximum far above p99 is a
single token where rounding swapped two experts or entries of nearly equal score.
"""
    base = fidelity(logits[0], logits[0], ids)
    rows = [
        [*mode, *fidelity(one, logits[0], ids).cells(base.nats)]
        for mode, one in zip(MODES, logits, strict=True)
    ]
    head = ("weights", "activations", "cache", "nats per token", "to first row")
    yield table((*head, "KL mean", "KL p99", "KL max", "same top-1"), rows)


def weight_formats(model: Path, folder: Path) -> Iterator[str]:
    """The section about quantised copies of the trained checkpoint."""
    yield f"""## Weight formats

The trained checkpoint, quantised by `dsv4c quantize MODEL OUT --experts E --attention A` without
calibration, against itself in BF16: the same text of {TOKENS:,} predictions, float32 activations, f32
cache, target `cpu`. MB are those of the weights; KL is KL(BF16 || row) in nats per token. NVFP4
everywhere leaves wo_a, compressors and the head in BF16, as released checkpoints do.
Repeat with `python scripts/accuracy.py MODEL --only formats`.
"""
    text = (model / "eval.txt").read_text(encoding="utf-8")
    ids = Tokenizer.load(model).encode(text)[: TOKENS + 1]
    plain = dsv4c.compile(model, folder / "bf16", dtype="float32", kv_cache="f32")
    exact = predictions(plain, ids)
    base = fidelity(exact, exact, ids)
    rows = [
        [
            "BF16",
            "bf16",
            "bf16",
            f"{weight_bytes(folder / 'bf16') / 1e6:.1f}",
            *base.cells(base.nats),
        ]
    ]
    for number, (name, experts, attention) in enumerate(QUANTISED):
        made, out = folder / f"q{number}", folder / f"p{number}"
        quantize_checkpoint(model, made, experts, attention)
        logits = predictions(dsv4c.compile(made, out, dtype="float32", kv_cache="f32"), ids)
        cells = fidelity(logits, exact, ids).cells(base.nats)
        rows.append([name, experts, attention, f"{weight_bytes(out) / 1e6:.1f}", *cells])
        print(name, cells[0], file=sys.stderr, flush=True)
    head = ("weights", "E", "A", "MB", "nats per token", "to BF16", "KL mean", "KL p99", "KL max")
    yield table((*head, "same top-1"), rows)


def weight_bytes(plan: Path) -> int:
    """Size of the weights of a plan."""
    return sum(file.stat().st_size for file in (plan / "weights").iterdir())


def random_models(count: int) -> Iterator[str]:
    """The section about random small models."""
    rows: list[parity.Parity] = []
    for number in range(count):
        rows.append(parity.compare(number))
        print(rows[-1].case, file=sys.stderr, flush=True)
    worst = max(max(row.differences.values()) for row in rows)
    flips = [margin for row in rows for margin in row.margins]
    positions = sum(row.positions for row in rows)
    yield f"""## Random small models against transformers

{count} models whose every parameter is random: each pair of first and last layer kind with 0 to 3 hash
layers, top-k below and above the number of entries, lengths around 4, 128 and the window, odd widths.
transformers saves the model, dsv4c compiles what it saved. The same tokens then go through the plan in
four ways: whole, in random chunks, one by one, and in a batch of 5 sequences of other lengths (one
ragged step over their prompts, then decode). Cells are the largest difference of any logit at any
position from transformers in float32; m is tokens per entry of CSA and HCA layers.

Largest of all: {worst:.1e} (bar: {parity.BOUND:.0e}). Other argmax: {_flips(flips, positions)}.
Repeat with `python scripts/parity.py --count {count}`.
"""
    yield "\n".join(parity.table(rows))


def _flips(margins: list[float], positions: int) -> str:
    if not margins:
        return f"at none of {positions:,} positions"
    text = f"at {len(margins)} of {positions:,} positions, where the oracle's two best logits are"
    return f"{text} {max(margins):.0e} apart" + (" at most" if len(margins) > 1 else "")


def main() -> None:
    """Measure, then write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--only", choices=("trained", "formats", "random"))
    parser.add_argument("--models", type=int, default=72)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "accuracy.md")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    versions = f"torch {torch.__version__}, transformers {oracle.transformers.__version__}"
    head = f"""# Accuracy

Written by `python scripts/accuracy.py MODEL` ({versions}, on the CPU).
"""
    text = given.out.read_text(encoding="utf-8") if given.only else head
    with tempfile.TemporaryDirectory() as folder:
        makers = {
            "trained": lambda: trained(given.model, Path(folder)),
            "formats": lambda: weight_formats(given.model, Path(folder)),
            "random": lambda: random_models(given.models),
        }
        for name in [given.only] if given.only else makers:
            text = with_sections(text, "\n".join(makers[name]()))
    given.out.write_text(text, encoding="utf-8")


def with_sections(text: str, made: str) -> str:
    """The page with these sections in the place of those with the same titles, or at the end."""
    for section in re.split(r"^(?=## )", made.strip() + "\n", flags=re.MULTILINE):
        title = section.partition("\n")[0]
        if not title:
            continue
        parts = re.split(r"^(?=## )", text.strip() + "\n", flags=re.MULTILINE)
        places = [number for number, part in enumerate(parts) if part.partition("\n")[0] == title]
        place = places[0] if places else len(parts)
        parts[place : place + len(places)] = [section]
        text = "\n".join(part.strip() + "\n" for part in parts)
    return text


if __name__ == "__main__":
    main()
