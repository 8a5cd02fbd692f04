"""In a process of its own, mostly under compute-sanitizer: the named cases, one after another.

usage: sanitize_child.py LIBRARIES TOOL faults|cases NAME ...        (scripts/gpu_sanitize.py does it)
"""

from __future__ import annotations

import fnmatch
import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "gpu")]
os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")

from sanitize_tasks import END, KERNELS, MARK  # noqa: E402

TOO_EARLY = "Error: Race between kernels"
Chosen = dict[str, tuple[str, Any]]


def chosen(patterns: Sequence[str], tool: str) -> Chosen:
    """By name, the library and the case; those of the first pattern of every kernel first."""
    import late
    import sanitized
    from planted.traced import needs_trace

    def place(name: str, patterns: Sequence[str]) -> int:
        return next((i for i, one in enumerate(patterns) if fnmatch.fnmatch(name, one)), -1)

    race = tool == "racecheck"
    found: list[tuple[int, str, str, Any]] = []
    for cases in _collected(tuple(patterns)):
        for kind, case in cases:
            name = f"{kind}/{case.name}"
            if case.verify is None or (race and place(name, sanitized.TOO_LONG) >= 0):
                continue
            if tool == "late" and not late.applies(kind, case.name):
                continue
            library = "traced" if race and needs_trace(case.kernel) else "kernels"
            if (at := place(case.name, sanitized.CHOSEN[kind])) >= 0:
                found.append((at, name, library, case))
            again = race and kind == "sparse_attention"
            if again and (at := place(case.name, sanitized.UNSPLIT)) >= 0:
                found.append((at, f"{name}_unsplit", "unsplit", case))
    return {name: (library, case) for _, name, library, case in sorted(found, key=lambda x: x[0])}


@functools.cache
def _collected(patterns: tuple[str, ...]) -> list[list[tuple[str, Any]]]:
    import gpu_kernels

    return list(gpu_kernels.collect(list(patterns)).values())


class _Child:
    """Runs a planted fault or a case by its name."""

    def __init__(self, libraries: Path, tool: str, what: str, names: Sequence[str]) -> None:
        self._libraries = libraries
        kinds = sorted({name.partition("/")[0] for name in names})
        self._cases = chosen(kinds, tool) if what == "cases" else {}
        self.run: Callable[[str], None] = {
            ("late", "faults"): self._overtaken,
            ("late", "cases"): self._late,
        }.get((tool, what), self._fault if what == "faults" else self._case)

    def _kernel(self, library: str, name: str) -> Callable[..., object]:
        import tvm_ffi

        return tvm_ffi.load_module(str(self._libraries / f"lib{library}.so")).get_function(name)

    def _fault(self, name: str) -> None:
        import torch

        host = torch.arange(128, dtype=torch.float32)
        x, y = torch.empty(128, device="cuda"), torch.empty(128, device="cuda")
        part = 64 if name == "unwritten" else 128
        x[:part].copy_(host[:part])
        self._kernel("faults", f"planted_{name}")(x, y)

    def _case(self, name: str) -> None:
        import torch

        library, case = self._cases[name]
        inputs = case.inputs(0)
        outputs = [
            torch.empty(*one[:1], dtype=one[1], device="cuda") for one in case.outputs(inputs)
        ]
        function = self._kernel(library, case.kernel)
        arguments = (*inputs, *outputs)
        case.call(function, *arguments) if case.call else function(*arguments)

    def _late(self, name: str) -> None:
        import late

        library, case = self._cases[name]
        kernel, slow = self._kernel(library, case.kernel), self._kernel("faults", "planted_late")
        if late.differences(name.partition("/")[0], case, kernel, slow):
            print(f"{TOO_EARLY} at {KERNELS}", flush=True)

    def _overtaken(self, name: str) -> None:
        """Whether a small kernel reads before the one in front of it has written."""
        import torch

        slow, quick = (
            self._kernel("faults", "planted_late"),
            self._kernel("faults", f"planted_{name}"),
        )
        for _ in range(2):  # a first launch waits until its code is loaded
            x, y, z = (torch.full((256,), i, dtype=torch.uint8, device="cuda") for i in (1, 0, 0))
            torch.cuda.synchronize()
            slow(x, y)
            quick(y, z)
            torch.cuda.synchronize()
        if not torch.equal(x, z):
            print(f"{TOO_EARLY} at {KERNELS}", flush=True)


def main() -> None:
    """A line before each case and one after the last."""
    import torch

    libraries, tool, what, *names = sys.argv[1:]
    child = _Child(Path(libraries), tool, what, names)
    for name in names:
        print(f"{MARK}{time.monotonic()} {name}", flush=True)
        child.run(name)
        torch.cuda.synchronize()
    print(f"{END} {time.monotonic()}", flush=True)


if __name__ == "__main__":
    main()
