"""The figures at the head of docs/performance.md and in README.md, from runs on the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from dsv4c.bench.results import Bench, LayerRow, PeerRow, StepRow

Result = dict[str, Any]
KINDS = {"csa": "CSA", "hca": "HCA", "swa": "window"}
WO_A = 8 * 1024 * 4096  # bytes of Flash's wo_a in FP8
STREAMED = 16 << 20  # bytes of weights from which on a linear is held against the copy rate
# By the names of cases; the attention's of FP8 checkpoints have bf16 compressors beside them.
FORMATS = {
    "FP8": ("flash_csa", "flash_hca", "flash_swa", "flash_q", "flash_o", "pro_"),
    "fp32-scaled FP8": ("f32_scales_",),
    "bf16": ("bf16_", "flash_head"),
    "4-bit": ("nvfp4_", "mxfp4_"),
}
MOE = {
    "Marlin": "all of Flash's MoE, 1, 8, 64, 256 tokens: against Marlin's two products alone",
    "Marlin, routed experts": "the same without its shared expert: against Marlin's two products",
    "Marlin + shared expert": "all of it: against these and a bf16 shared expert",
}


@dataclass(frozen=True)
class Runs:
    """Where the figures come from: two benches, times of kernels by kind, host times."""

    flash: Bench
    pro: Bench
    times: Mapping[str, Result]
    host: Result


@dataclass(frozen=True)
class Figure:
    """One line: what, as measured, the aim, and whether it is met; None where there is no aim."""

    what: str
    measured: str
    aim: str = "-"
    met: bool | None = None


def table(runs: Runs) -> str:
    """All figures."""
    makers = (_layers, _torch, _attention, _insert, _experts, _prefill, _seam, _wo_a, _linears)
    found = [one for make in (*makers, _indexer, _host, _overlap) for one in make(runs)]
    words = {True: "yes", False: "no", None: "-"}
    lines = ["| one H100 | measured | aim | met |", "|---|---|---|---|"]
    lines += [f"| {one.what} | {one.measured} | {one.aim} | {words[one.met]} |" for one in found]
    return "\n".join(lines)


def sentences(runs: Runs) -> str:
    """The figures of README.md."""
    few, many = (_layer(runs.flash, "csa", count) for count in (1, 64))
    compiled, eager = (_speedups(runs, name, "CSA") for name in ("torch.compile", "transformers"))
    attention = _speedups(runs, "FlashMLA", "64 heads, 128 + 512 rows")
    insert = _speedups(runs, "vLLM insert", "64 heads")
    marlin = _speedups(runs, "Marlin", "Flash")
    text = (
        f"On an H100 a decode layer of Flash (CSA, {runs.flash.steps[0].context:,} tokens of "
        f"context, NVFP4 experts) takes {few.time.us:.0f} us for one sequence and "
        f"{many.time.us / 1000:.2f} ms for 64, {few.ratio:.2f} and {many.ratio:.2f} times what its "
        f"bytes need at the card's copy rate: {_span(compiled.values(), '.1f')} times faster than "
        f"`torch.compile` of the same layer, {_span(eager.values(), '.0f')} times faster than "
        f"transformers ({_counted(eager, _sequences)}). Sparse attention is "
        f"{_span(attention.values())} times as fast as FlashMLA, the query norm + RoPE + insert "
        f"kernel {_span(insert.values())} times as vLLM's, the whole MoE {_span(marlin.values())} "
        f"times as Marlin's two products alone."
    )
    return fill(text, 140)


def microseconds(one: Result) -> float:
    """Of a timed case: the better of its two turns."""
    return min(one["us"], one.get("us_again", one["us"]))


def _layers(runs: Runs) -> Iterator[Figure]:
    context = f"{runs.flash.steps[0].context:,} tokens of context"
    for count, aim in ((1, 1.6), (64, 1.3)):
        one = _layer(runs.flash, "csa", count)
        what = f"Flash, CSA layer, {context}, {_sequences(count)}: time / bytes floor"
        measured = f"{one.ratio:.2f} ({one.time.us:.0f} us)"
        yield Figure(what, measured, f"<= {aim}", one.ratio <= aim)
    for name, bench, kinds in (("Flash", runs.flash, ("hca", "swa")), ("Pro", runs.pro, KINDS)):
        for kind in kinds:
            rows = [_layer(bench, kind, count) for count in (1, 64) if _has(bench, kind)]
            if rows:
                what = f"{name}, {KINDS[kind]} layer, 1, 64 sequences: time / bytes floor"
                yield Figure(what, _ratios(one.ratio for one in rows))


def _torch(runs: Runs) -> Iterator[Figure]:
    for peer, aim in (("torch.compile", 3), ("transformers", 30)):
        found = _speedups(runs, peer, "CSA")
        what = f"that CSA layer, {_counted(found, _sequences)}: against {peer} in bf16"
        measured = _each(f"{one:.1f}" for one in found.values()) + " times faster"
        yield Figure(what, measured, f">= {aim}", min(found.values()) >= aim)


def _attention(runs: Runs) -> Iterator[Figure]:
    found = _speedups(runs, "FlashMLA", "64 heads, 128 + 512 rows")
    what = (
        f"sparse attention, 64 heads, 640 rows, {_each(map(str, found))} tokens: against FlashMLA"
    )
    yield _faster(what, found, lambda count: 1.0, ">= 1")


def _insert(runs: Runs) -> Iterator[Figure]:
    found = _speedups(runs, "vLLM insert", "64 heads")
    what = f"query norm, RoPE, insert, {min(found):,} to {max(found):,} tokens: against vLLM"
    yield _faster(what, found, lambda count: 1.5 if count in (64, 256) else 1.0, ">= 1")
    some = {count: found[count] for count in (64, 256)}
    yield _faster("the same, 64, 256 tokens", some, lambda count: 1.5, ">= 1.5")


def _experts(runs: Runs) -> Iterator[Figure]:
    counts = (1, 8, 64, 256)
    have = {one.peer for one in _peers(runs) if one.speedup is not None}
    for name, what in MOE.items():
        if name in have:
            speedups = _speedups(runs, name, "Flash")
            found = {count: speedups[count] for count in counts}
            words = "8, 64: >= 0.87, else 1"
            yield _faster(what, found, lambda count: 1 / 1.15 if count in (8, 64) else 1.0, words)


def _prefill(runs: Runs) -> Iterator[Figure]:
    step = next(one for one in runs.flash.steps if one.tokens > one.sequences)
    rates = [step.tokens / one.time.us * 1e6 for one in step.layers]
    yield Figure(
        f"prefill of {step.tokens:,} tokens, one Flash layer", f"{_span(rates, ',.0f')} tokens/s"
    )
    for what, kinds in (("linears", ("linears",)), ("experts", ("moe_gate_up", "moe_down"))):
        rows = [one for one in step.kernels if one.kind in kinds and one.bound == "arithmetic"]
        found = [one.flops / one.time.us / 1e6 for one in rows]
        what = f"large products of it, {what}"
        yield Figure(what, f"{_span(found, '.0f')} TFLOP/s", ">= 500", min(found) >= 500)


def _seam(runs: Runs) -> Iterator[Figure]:
    for count, aim in ((1, 6), (64, 8)):
        us = microseconds(_case(runs, "mhc_seam", f"flash_t{count}_time"))
        what = f"hyper-connection seam of Flash, {_tokens(count)}"
        yield Figure(what, f"{us:.1f} us", f"<= {aim} us", us <= aim)
    share = _share(runs, "mhc_seam", "flash_t4096_time")
    yield _copied("hyper-connection seam of Flash, 4,096 tokens", [share], 0.85)


def _wo_a(runs: Runs) -> Iterator[Figure]:
    rate = runs.times["inverse_rope_wo_a"]["copy_rate"] / 1e6
    counts = (1, 8, 16, 32, 64)
    cases = [_case(runs, "inverse_rope_wo_a", f"flash_fp8_128_t{count}_time") for count in counts]
    found = [microseconds(one) * rate / WO_A for one in cases]
    whole = [microseconds(one) * rate / one["bytes"] for one in cases]
    what = (
        f"inverse RoPE + wo_a of Flash, FP8, {_each(map(str, counts))} tokens: time / weight floor"
    )
    measured = f"{_ratios(found)} (of all its bytes: {_ratios(whole)})"
    yield Figure(what, measured, "<= 1.4", max(found) <= 1.4)


def _linears(runs: Runs) -> Iterator[Figure]:
    timed = {one["case"].split("/")[1]: one for one in runs.times["linears"]["results"]}
    for name, begins in FORMATS.items():
        large = [
            case.removesuffix("_t1_time")
            for case, one in timed.items()
            if case.endswith("_t1_time") and case.startswith(begins) and one["bytes"] >= STREAMED
        ]
        for count in (1, 8, 64):
            found = [_share(runs, "linears", f"{case}_t{count}_time") for case in large]
            yield _copied(f"{name} linears of 16 MB and more, {_tokens(count)}", found, 0.75)


def _indexer(runs: Runs) -> Iterator[Figure]:
    share = _share(runs, "index_scores", "t64_h64_mxfp4_c131072_time")
    yield _copied("indexer's scores, 131,072 tokens, 64 sequences", [share], 0.8)
    us = microseconds(_case(runs, "index_scores", "t1_h64_mxfp4_c131072_time"))
    yield Figure("the same, one sequence (floor below a launch)", f"{us:.1f} us")
    us = microseconds(_case(runs, "topk_entries", "t1_k512_e32768_time"))
    yield Figure("top-k of 32,768 entries, one token", f"{us:.1f} us", "<= 8 us", us <= 8)


def _host(runs: Runs) -> Iterator[Figure]:
    found = {step["sequences"]: step["call"]["us"] for step in runs.host["steps"]}
    what = (
        f"host time of a step of {runs.host['layers']} layers, {_each(map(str, found))} sequences"
    )
    measured = _each(f"{one:.1f}" for one in found.values()) + " us"
    yield Figure(what, measured, "<= 30 us", max(found.values()) <= 30)


def _overlap(runs: Runs) -> Iterator[Figure]:
    steps = [_step(runs.flash, count) for count in (1, 64)]
    saved = [one.saved_us for one in steps]
    if None not in saved:
        what = "overlap of kernels (PDL) saves a launch, 1, 64 sequences"
        yield Figure(what, _ratios(saved) + " us")


# --- parts of lines ------------------------------------------------------------------------


def _faster(
    what: str, found: Mapping[int, float], aim: Callable[[int], float], words: str
) -> Figure:
    measured = _ratios(found.values())
    if len(found) > 8:
        measured = _span(found.values())
    met = all(one >= aim(count) for count, one in found.items())
    return Figure(what, f"{measured} times as fast", words, met)


def _copied(what: str, shares: Sequence[float], aim: float) -> Figure:
    met = min(shares) >= aim
    return Figure(what, f"{_span(shares, '.0%')} of the copy rate", f">= {aim:.0%}", met)


def _each(words: Iterable[str]) -> str:
    return ", ".join(words)


def _span(values: Iterable[float], form: str = ".2f") -> str:
    found = sorted(values)
    low, high = (format(one, form) for one in (found[0], found[-1]))
    return low if low == high else f"{low} to {high}"


def _ratios(values: Iterable[float]) -> str:
    return _each(f"{one:.2f}" for one in values)


def _counted(counts: Iterable[int], words: Callable[[int], str]) -> str:
    """Such as `one token`, or `1, 8 tokens`."""
    *few, last = counts
    return _each([*map(str, few), words(last)]) if few else words(last)


def _sequences(count: int) -> str:
    return "one sequence" if count == 1 else f"{count} sequences"


def _tokens(count: int) -> str:
    return "one token" if count == 1 else f"{count} tokens"


# --- figures of runs -----------------------------------------------------------------------


def _step(bench: Bench, sequences: int) -> StepRow:
    return next(one for one in bench.steps if one.sequences == one.tokens == sequences)


def _has(bench: Bench, kind: str) -> bool:
    return any(one.kind == kind for one in bench.steps[0].layers)


def _layer(bench: Bench, kind: str, sequences: int) -> LayerRow:
    return next(one for one in _step(bench, sequences).layers if one.kind == kind)


def _peers(runs: Runs) -> Sequence[PeerRow]:
    assert runs.flash.peers, "bench_flash.json was made with --peers"
    return runs.flash.peers


def _speedups(runs: Runs, peer: str, case: str = "") -> dict[int, float]:
    """Time of a peer over ours by the number at the end of `B = 8` or `T = 8`."""
    found: dict[int, float] = {}
    for row in _peers(runs):
        if row.peer == peer and row.case.startswith(case) and row.speedup is not None:
            found[int(row.case.split(" = ")[1].split(",")[0])] = row.speedup
    assert found, f"bench_flash.json has no times of {peer} {case}"
    return found


def _case(runs: Runs, kind: str, name: str) -> Result:
    results = runs.times[kind]["results"]
    return next(one for one in results if one["case"] == f"{kind}/{name}")


def _share(runs: Runs, kind: str, name: str) -> float:
    """Bytes of a case over its time, over the copy rate of its run."""
    one = _case(runs, kind, name)
    return one["bytes"] / microseconds(one) * 1e6 / runs.times[kind]["copy_rate"]
