"""A plan's native library: loaded with apache-tvm-ffi, functions by kernel name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from dsv4c.errors import DsvError

Kernel = Callable[..., None]
"""A kernel: called with torch CUDA tensors in the order of the calling convention, on torch's
current stream; the first call loads its device code (do that before capturing a graph)."""


class KernelLibrary:
    """The kernels of one library.

    Args:
        path: the shared library; check its hash before opening it.
        names: the kernels that must be in it.

    Raises:
        DsvError: DSV604 when the library does not load or a kernel is not in it.
    """

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        # With torch >= 2.10 tensors pass through its exchange API; the optional extension of
        # apache-tvm-ffi would be compiled at import.
        os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")
        self.path = path
        self._module = _load(path)
        self._functions = {name: self._look_up(name) for name in names}

    def __getitem__(self, name: str) -> Kernel:
        return self._functions[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the kernels, in the order they were asked for."""
        return tuple(self._functions)

    def _look_up(self, name: str) -> Kernel:
        try:
            return cast(Kernel, self._module.get_function(name))
        except Exception as error:
            raise DsvError(
                "DSV604",
                "a kernel is not in the library",
                where=str(self.path),
                expected=name,
                hint="compile the plan again",
            ) from error


def _load(path: Path) -> Any:
    try:
        import tvm_ffi
    except ImportError as error:
        raise DsvError(
            "DSV604",
            "apache-tvm-ffi is not installed",
            found=str(error),
            hint="pip install apache-tvm-ffi",
        ) from error
    try:
        return tvm_ffi.load_module(str(path))
    except Exception as error:
        raise DsvError(
            "DSV604",
            "the kernel library does not load",
            where=str(path),
            found=str(error).strip().splitlines()[-1] if str(error).strip() else "no message",
            hint="the plan needs libcuda.so.1 (the NVIDIA driver) and apache-tvm-ffi >= 0.1.15",
        ) from error
