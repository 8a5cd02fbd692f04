"""Runs one node of a dsv4c plan alone: its kernel from library.so, or its torch reference.

usage: python run.py [--repeat N]

The folder holds the operands (inputs.safetensors), what a reference in float64 makes of them with
the largest error allowed per element (expected.safetensors), the node as IR (node.ir) and, for a
kernel, its source and the library. Needs torch and safetensors; a kernel also apache-tvm-ffi and a
GPU of its architecture; a reference also dsv4c.

Exit codes: 0 every result is within its bound, 6 one is not, 7 something that is needed is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CAPABILITIES = {"sm_90a": (9, 0), "sm_100a": (10, 0)}
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def main() -> int:
    """Run, compare, time."""
    parser = argparse.ArgumentParser(description="Run one node of a dsv4c plan alone.")
    parser.add_argument("--repeat", type=int, default=20, help="timed runs")
    repeat: int = parser.parse_args().repeat
    case = json.loads((HERE / "case.json").read_text(encoding="utf-8"))
    missing = list(missing_parts(case))
    for part in missing:
        print(f"missing: {part}")
    if missing:
        return 7
    print(f"node    %{case['node']} ({case['kind']}), layer {case['layer']}")
    print(f"runs    {case['kernel'] or 'torch reference'}")
    from safetensors.torch import load_file

    device = "cuda" if case["kernel"] else "cpu"
    inputs = load_file(HERE / "inputs.safetensors", device=device)
    expected = load_file(HERE / "expected.safetensors", device=device)
    arguments = [inputs[name] for name in case["arguments"]]
    run = kernel(case, arguments) if case["kernel"] else reference(case, arguments)
    results = run()
    ok = True
    for number, result in enumerate(case["results"]):
        found = judge(result, results[number], expected, number)
        ok = ok and found <= 1
        print(f"result  %{result['value']}: error / bound {found:.3g}")
    print(f"time    {timed(run, repeat, device):.4f} ms, median of {repeat}")
    print("within every bound" if ok else "BEYOND ITS BOUND")
    return 0 if ok else 6


def missing_parts(case: dict[str, Any]) -> list[str]:
    """What this machine lacks, in words."""
    from importlib.util import find_spec

    wanted = ["torch", "safetensors", "tvm_ffi" if case["kernel"] else "dsv4c"]
    names = {"tvm_ffi": "apache-tvm-ffi"}
    lacking = [f"the package {names.get(n, n)}" for n in wanted if find_spec(n) is None]
    if not case["kernel"] or "the package torch" in lacking:
        return lacking
    import torch

    arch = CAPABILITIES[case["arch"]]
    if not torch.cuda.is_available():
        lacking.append(f"a GPU of compute capability {arch[0]}.{arch[1]} ({case['arch']})")
    elif torch.cuda.get_device_capability() != arch:
        found = f"{torch.cuda.get_device_name()} has {torch.cuda.get_device_capability()}"
        lacking.append(f"a GPU of compute capability {arch[0]}.{arch[1]}; {found}")
    if not (HERE / "library.so").is_file():
        lacking.append("library.so, the plan's compiled kernels")
    return lacking


def kernel(case: dict[str, Any], arguments: list[Any]) -> Any:
    """A call of the kernel: operands in order, then results; states are written in place."""
    os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")
    import torch
    import tvm_ffi

    function = tvm_ffi.load_module(str(HERE / "library.so")).get_function(case["kernel"])
    results = [
        arguments[one["argument"]]
        if one["argument"] is not None
        else torch.empty(one["shape"], dtype=getattr(torch, one["dtype"]), device="cuda")
        for one in case["results"]
    ]
    scratch = [
        torch.zeros(one["shape"], dtype=getattr(torch, one["dtype"]), device="cuda")
        for one in case["scratch"]
    ]
    made = [r for r, one in zip(results, case["results"], strict=True) if one["argument"] is None]

    def run() -> list[Any]:
        function(*arguments, *made, *scratch)
        return results

    return run


def reference(case: dict[str, Any], arguments: list[Any]) -> Any:
    """A call of the node's reference as a plan runs it, on fresh copies of the states."""
    from dsv4c.runtime.case import reference_run

    return reference_run((HERE / "node.ir").read_text(encoding="utf-8"), arguments)


def judge(result: dict[str, Any], y: Any, expected: dict[str, Any], number: int) -> float:
    """Largest |y - r| / bound; infinite where NaN, infinities or integers differ."""
    import torch

    r = expected[f"result{number}"]
    if result["layout"] is not None:
        if torch.equal(y, r):
            return 0.0
        y, r = decode(y, result["layout"]), decode(r, result["layout"])
        most = r.abs().masked_fill(~r.isfinite(), 0).amax(-1, keepdim=True).expand_as(r)
        bound = result["step"] * r.abs() + result["inner"] * most + 1e-30
    elif not y.is_floating_point():
        return 0.0 if torch.equal(y.long(), r.long()) else float("inf")
    else:
        bound = expected[f"bound{number}"]
    y, special = y.double(), ~r.isfinite()
    if y.shape != r.shape or not torch.equal(y.isnan(), r.isnan()):
        return float("inf")
    if not torch.equal(y[special & ~r.isnan()], r[special & ~r.isnan()].double()):
        return float("inf")
    ratio = ((y - r.double()).abs() / bound)[~special]
    return float(ratio.nan_to_num(float("inf")).max()) if ratio.numel() else 0.0


def decode(pages: Any, layout: dict[str, Any]) -> Any:
    """Values of cache pages: data of all entries, then scales of all entries."""
    import torch

    page, data_bytes, scale_bytes = layout["page"], layout["data_bytes"], layout["scale_bytes"]
    if layout["format"] in ("f32", "bf16"):
        return pages.double()
    split = page * data_bytes
    data = pages[:, :split].unflatten(1, (page, data_bytes))
    scale = pages[:, split : split + page * scale_bytes].unflatten(1, (page, scale_bytes))
    if layout["format"] == "mxfp4":
        table = torch.tensor([*E2M1, *(-x for x in E2M1)], device=pages.device).double()
        codes = torch.stack((data & 15, data >> 4), -1).flatten(-2)
        return table[codes.long()] * torch.exp2(scale.double() - 127).repeat_interleave(32, -1)
    nope = layout["width"] - layout["rope"]
    powers = torch.exp2(scale[..., : nope // 64].double() - 127).repeat_interleave(64, -1)
    values = data[..., :nope].contiguous().view(torch.float8_e4m3fn).double() * powers
    rope = data[..., nope:].contiguous().view(torch.bfloat16).double()
    return torch.cat((values, rope), -1)


def timed(run: Any, repeat: int, device: str) -> float:
    """Median milliseconds of a call."""
    import torch

    found: list[float] = []
    for _ in range(max(repeat, 1)):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end))
        else:
            start = time.perf_counter()
            run()
            found.append((time.perf_counter() - start) * 1e3)
    return statistics.median(found)


if __name__ == "__main__":
    sys.exit(main())
