"""Objects -> one shared library that needs only libtvm_ffi.so and the NVIDIA driver.

NVIDIA's static runtime (libcuda_dialect_runtime_static.a, libcudart_static.a) goes into the library.
The compiler is located by its installed files, not imported: a warm build stays fast.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import metadata, resources
from pathlib import Path

from dsv4c.errors import DsvError


def link_library(objects: Sequence[Path], out: Path) -> None:
    """Link `objects` into the shared library `out`, which is replaced whole or left alone.

    Only the functions `__tvm_ffi_<kernel name>` are visible in it.

    Raises:
        DsvError: DSV402 when a part is missing or the linker fails.
    """
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None:
        raise DsvError(
            "DSV402", "no C compiler found", expected="gcc, or CC set", hint="install gcc"
        )
    parts = _parts()
    native = resources.files("dsv4c.codegen") / "native"
    with (
        resources.as_file(native / "ffi_shim.c") as shim,
        resources.as_file(native / "ffi_only.map") as visible,
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work,
    ):
        made = Path(work) / out.name
        command: list[str | Path] = [compiler, "-O2", "-fPIC", "-shared", "-o", made]
        command += [*sorted(objects, key=lambda path: path.parent.name), shim, *parts]
        command += [f"-Wl,--version-script={visible}", "-Wl,--gc-sections", "-Wl,--strip-all"]
        command += ["-Wl,--wrap=cudaLaunchKernelExC"]
        # Undefined symbols are errors here, not at load time.
        command += ["-Wl,--build-id=none", "-Wl,-z,defs", "-ldl", "-lrt", "-lpthread", "-lc"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DsvError(
                "DSV402",
                "the kernel library does not link",
                where=str(out),
                found="\n".join(done.stderr.splitlines()[-12:]),
                hint="gcc and the compiler packages must be of the versions that dsv4c pins",
            )
        made.replace(out)


def _parts() -> list[Path]:
    """NVIDIA's two archives, of one CUDA major version, and libtvm_ffi.so."""
    dialect, owner = _installed("nvidia-cutlass-dsl-libs-cu", "libcuda_dialect_runtime_static.a")
    major = owner.rpartition("-cu")[2]
    cudart, _ = _installed("nvidia-cuda-runtime", "libcudart_static.a", version=major + ".")
    return [dialect, cudart, _installed("apache-tvm-ffi", "libtvm_ffi.so")[0]]


def _installed(prefix: str, name: str, version: str = "") -> tuple[Path, str]:
    """File `name` of an installed distribution called `prefix`..., and that distribution."""
    for dist in sorted(metadata.distributions(), key=lambda d: d.name):
        owner = dist.name.lower().replace("_", "-")
        if not (owner.startswith(prefix) and dist.version.startswith(version)):
            continue
        for file in dist.files or ():
            if file.name == name and (path := Path(str(dist.locate_file(file)))).is_file():
                return path, owner
    raise DsvError(
        "DSV402",
        "a library that kernels are linked with is not installed",
        expected=f"{name} of {prefix}* {version}".rstrip(),
        hint="install the packages that dsv4c pins",
    )
