"""Break small checkpoints in thousands of ways, and see that each is refused or does no harm.

usage: mutants.py [--seed N] [--kind KIND] [--every N] [--out docs/mutants.md]

Each mutant is a copy of a sound checkpoint with one kind of damage; `dsv4c quantize` must refuse it
within 10 s, naming the file, the tensor and the reason, and leave the target folder empty; or its
output must be byte for byte that of the sound checkpoint. About 10 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "checkpoint")]

import torch  # noqa: E402
from flavours import FLAVOURS, TARGETS  # noqa: E402
from judge import Verdict, digest_of, judge  # noqa: E402
from mutations import mutants  # noqa: E402
from sound import Sound  # noqa: E402

from dsv4c.checkpoint.quantize import quantize_checkpoint  # noqa: E402
from dsv4c.checkpoint.reader import Checkpoint  # noqa: E402
from dsv4c.models.deepseek_v4.config import load_config  # noqa: E402
from dsv4c.models.deepseek_v4.names import read_ledger  # noqa: E402


def run(folder: Path, seed: int, kind: str, every: int) -> dict[str, list[Verdict]]:
    """Verdicts by kind."""
    verdicts: dict[str, list[Verdict]] = defaultdict(list)
    for flavour, make in FLAVOURS.items():
        sound, work = make(folder / flavour / "sound"), folder / flavour / "work"
        quantize_checkpoint(sound, folder / flavour / "expected", *TARGETS[flavour])
        digest = digest_of(folder / flavour / "expected")
        ignored = read_ledger(load_config(sound), Checkpoint.open(sound)).ignored
        used = Checkpoint.open(sound).tensors.keys() - ignored.keys()
        for number, mutant in enumerate(mutants(Sound(sound, set(used), seed))):
            if number % every or kind not in mutant.kind:
                continue
            verdict = judge(flavour, sound, digest, mutant, work)
            verdicts[mutant.kind].append(verdict)
            if verdict.outcome == "bad":
                print(f"BAD {flavour}, {mutant.kind}, {mutant.what!a}: {verdict.text}", flush=True)
        print(f"{flavour}: {sum(map(len, verdicts.values()))} so far", file=sys.stderr, flush=True)
    return verdicts


def page(verdicts: dict[str, list[Verdict]], seed: int) -> str:
    """The result as Markdown."""
    lines = [
        "# Broken checkpoints",
        "",
        f"Written by `python scripts/mutants.py --seed {seed}`. Six small checkpoints (BF16; FP8 with",
        "MXFP4 experts and MTP; ModelOpt's NVFP4 experts; NVFP4 everywhere under transformers' names;",
        "BF16 under transformers' names with fused experts; FP8 with float32 scales), each damaged in one",
        "place at a time and given to `dsv4c quantize`. Refused: an error of class 2 or 3 that names the",
        "file, the tensor and the reason within 10 s, with nothing left at the target. Harmless: the output",
        "is byte for byte that of the sound checkpoint. Two things cannot be seen without a hash of the",
        "published file: values that changed within their contract, and tensors of one shape and dtype that",
        "changed places. A plan keeps hashes, so it sees both in its own files.",
        "",
        "| damage | mutants | refused | harmless | neither | slowest, s |",
        "|---|---|---|---|---|---|",
    ]
    rows = [*verdicts.items(), ("all", [one for found in verdicts.values() for one in found])]
    for kind, found in rows:
        count = Counter(one.outcome for one in found)
        slowest = max(one.seconds for one in found)
        cells = (
            kind,
            len(found),
            count["refused"],
            count["harmless"],
            count["bad"],
            f"{slowest:.2f}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run, print the page, and fail if a mutant was neither refused nor harmless."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", default="")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        verdicts = run(Path(folder), given.seed, given.kind, given.every)
    text = page(verdicts, given.seed)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")
    print(text)
    return int(any(one.outcome == "bad" for found in verdicts.values() for one in found))


if __name__ == "__main__":
    raise SystemExit(main())
