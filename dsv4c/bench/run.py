"""A whole run: the card, decode steps, a prefill step, peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from dsv4c import hardware
from dsv4c.bench.card import measure_card, require_gpu
from dsv4c.bench.peers.compare import Layers, compare
from dsv4c.bench.results import Bench, PeerRow, StepRow
from dsv4c.bench.steps import measure_step
from dsv4c.errors import DsvError
from dsv4c.models.deepseek_v4.config import ModelConfig, parse_config
from dsv4c.models.deepseek_v4.released import RELEASED, read_config
from dsv4c.plan.files import MANIFEST
from dsv4c.plan.plan import Plan
from dsv4c.source import random_source

Progress = Callable[[str, int, int], None]

_TORCH = 64
"""Most sequences of a layer in torch, whose weights are bf16 and lie beside the plan's."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to time.

    Attributes:
        sequences: of decode steps, one step for each number.
        context: tokens that each sequence holds before a decode step.
        prefill: tokens of a prefill step of sequences that hold as many; None for no such step.
        peers: folder of other implementations' libraries; None for no peers. Layers are compared
            with torch's at the fewest and, up to 64, the most of the sequences.
        kernel: a glob; only kernels of such names are timed by themselves.
    """

    sequences: Sequence[int]
    context: int
    prefill: int | None = None
    peers: Path | None = None
    kernel: str = "*"


def run_bench(plan: Plan, wanted: Wanted, report: Progress | None = None) -> Bench:
    """Measure the card, then everything that is wanted.

    Args:
        plan: for this machine's GPU.
        wanted: what to time.
        report: called with (phase, done, total).

    Raises:
        DsvError: DSV601 for a `cpu` plan or without a GPU; DSV101, a prefill that is no whole number
            of the plan's chunks, or a glob that no kernel matches; else as `Plan.session`.
    """
    if plan.target == "cpu":
        raise DsvError(
            "DSV601",
            "bench times kernels, and a cpu plan has none",
            where=str(plan.path),
            expected="a plan for sm_90a or sm_100a",
            hint="compile with --target sm_90a",
        )
    require_gpu("bench", str(plan.path), plan.target)
    plan.device()
    _require_kernel(plan, wanted.kernel)
    steps = [(count, wanted.context, 1) for count in wanted.sequences]
    if wanted.prefill is not None:
        tokens = _prefill_rows(plan, wanted.prefill)
        steps.append((wanted.prefill // tokens, wanted.prefill, tokens))
    tell = report or (lambda phase, done, total: None)
    tell("bench", 0, len(steps) + 1)
    card = measure_card()
    torch.cuda.empty_cache()
    # In processes of their own, while this one holds no weights.
    peers = None if wanted.peers is None else _peers(plan, wanted.peers, wanted, tell)
    found: list[StepRow] = []
    for number, (sequences, context, tokens) in enumerate(steps, 1):
        tell("bench", number, len(steps) + 1)
        found.append(measure_step(plan, card, sequences, context, tokens, wanted.kernel))
        torch.cuda.empty_cache()
    tell("bench", len(steps) + 1, len(steps) + 1)
    return Bench(plan.path.resolve().name, plan.target, card, found, peers)


def _require_kernel(plan: Plan, kernel: str) -> None:
    names = [one.name for one in plan.manifest.kernels]
    if names and not any(fnmatchcase(name, kernel) for name in names):
        raise DsvError(
            "DSV101",
            "no kernel has such a name",
            where=str(plan.path),
            expected=f"a glob that matches one of {len(names)}, such as {names[0]}",
            found=kernel,
            hint="dsv4c inspect PLAN kernels lists them",
        )


def _peers(plan: Plan, folder: Path, wanted: Wanted, report: Progress) -> list[PeerRow]:
    assert plan.manifest.library is not None, "a plan for a GPU has kernels"
    few = [count for count in wanted.sequences if count <= _TORCH] or [min(wanted.sequences)]
    layers = Layers(plan.path, sorted({min(few), max(few)}), wanted.context)
    return compare(folder, plan.path / plan.manifest.library, layers, report=report)


def _prefill_rows(plan: Plan, tokens: int) -> int:
    """Tokens of each sequence of a prefill step."""
    chunk = plan.manifest.options.chunk
    if tokens > chunk and tokens % chunk:
        raise DsvError(
            "DSV101",
            "the tokens of a prefill step are no whole number of chunks",
            expected=f"at most {chunk} tokens, or a multiple of {chunk}",
            found=str(tokens),
        )
    return min(tokens, chunk)


def names_plan(name: str) -> bool:
    """Whether it is a folder that should be a plan: no released model, and no folder of a config."""
    path = Path(name)
    if (path / MANIFEST).is_file():
        return True
    return name not in RELEASED and path.is_dir() and not (path / "config.json").is_file()


def compile_config(
    config: str,
    out: Path,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    experts: str = "nvfp4",
    attention: str = "fp8",
    report: Progress | None = None,
) -> Plan:
    """A plan of random weights for this machine's GPU.

    Args:
        config: "flash", "pro", a config.json or its folder.
        out: folder of the plan.
        layers: to take; the first of each kind by default.
        seed: of the weights.
        experts: format of routed experts.
        attention: format of the other linears.
        report: called with (phase, done, total).

    Raises:
        DsvError: DSV601 without a GPU, DSV401 without the compiler; else as `random_source` and
            `dsv4c.compile`.
    """
    from dsv4c.api import compile_source

    chosen = layers or one_of_each(parse_config(read_config(config), config))
    target = hardware.default_target()
    if target == "cpu":
        raise DsvError(
            "DSV601",
            "bench needs a GPU and there is none",
            where=config,
            expected="a GPU of sm_90a or sm_100a",
            found=", ".join(gpu.name for gpu in hardware.gpus()) or "no GPU",
            hint=f"{_compile_command(config, chosen, 'sm_90a')} here, dsv4c bench PLAN on it",
        )
    if find_spec("cutlass") is None:
        raise DsvError(
            "DSV401",
            "bench compiles a config, and there is no compiler",
            where=config,
            expected="nvidia-cutlass-dsl, or the folder of a plan",
            hint=f"elsewhere: {_compile_command(config, chosen, target)}",
        )
    require_gpu("bench", config, target)
    read = partial(random_source, config, chosen, seed, experts, attention)
    return compile_source(read, out, target, progress=report)


def _compile_command(config: str, layers: Sequence[int], target: str) -> str:
    numbers = ",".join(map(str, layers))
    return f"dsv4c compile {config} --synthetic --layers {numbers} --target {target} -o PLAN"


def one_of_each(config: ModelConfig) -> list[int]:
    """The first layer of each kind."""
    kinds = [layer.kind for layer in config.layers]
    return sorted(kinds.index(kind) for kind in set(kinds))
