"""The generated kernels that peers are compared with: which, and a library of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dsv4c.codegen.kernels import (
    moe_down,
    moe_gate_up,
    qnorm_rope_kv_insert,
    router,
    sparse_attention,
)

if TYPE_CHECKING:
    from dsv4c.codegen.kernel import KernelParams
    from dsv4c.runtime.kernels import Kernel

    Kernels = Mapping[str, Kernel]
else:
    Kernels = Mapping
# experts, chosen, hidden, width, scale of the routing weights
MODELS = {"Flash": (256, 6, 4096, 2048, 1.5), "Pro": (384, 6, 7168, 3072, 2.5)}
FORMS = ("nvfp4", "fp8_128")
LIMIT = 10.0
OURS = "libdsv4c_peers.so"
"""The library of `build` in the folder of the peers' libraries."""
KINDS = (router.KIND, moe_gate_up.KIND, moe_down.KIND)
FAMILIES = {
    family.KIND: family
    for family in (sparse_attention, qnorm_rope_kv_insert, router, moe_gate_up, moe_down)
}


def experts(
    model: str, arch: str, shared: bool = True
) -> tuple[router.Params, moe_gate_up.Params, moe_down.Params]:
    """Parameters of the three kernels of a layer's experts, with the shared one or without."""
    count, top_k, hidden, width, scale = MODELS[model]
    forms = FORMS if shared else (FORMS[0], "none")
    return (
        router.choose(count, top_k, hidden, 0, scale, arch),
        moe_gate_up.choose(count, top_k, hidden, width, *forms, LIMIT, arch),
        moe_down.choose(count, top_k, width, hidden, *forms, arch),
    )


def wanted(arch: str) -> list[tuple[str, KernelParams]]:
    """Kind and parameters of every kernel."""
    found: list[tuple[str, KernelParams]] = [
        (sparse_attention.KIND, sparse_attention.choose(heads, "fp8", page, arch))
        for heads, page in ((64, 32), (128, 32), (64, 1))
    ]
    for heads in (64, 128):
        params = qnorm_rope_kv_insert.choose(heads, "fp8", 128, arch)
        found.append((qnorm_rope_kv_insert.KIND, params))
    for model in MODELS:
        found += zip(KINDS, experts(model, arch), strict=True)
        found += zip(KINDS[1:], experts(model, arch, shared=False)[1:], strict=True)
    return found


def names(arch: str) -> list[str]:
    """Of every kernel."""
    return [FAMILIES[kind].kernel_name(params, arch) for kind, params in wanted(arch)]


def load(path: Path, folder: Path, arch: str = "sm_90a") -> Kernels:
    """The kernels of the rows.

    Args:
        path: a library that has some of them, such as a plan's.
        folder: may hold a library of `build`, for those that the first one lacks.
        arch: of both.
    """
    from dsv4c.errors import DsvError
    from dsv4c.runtime.kernels import KernelLibrary

    found: dict[str, Kernel] = {}
    for library in [folder / OURS, path]:
        for name in names(arch) if library.is_file() else ():
            try:
                found[name] = KernelLibrary(library, [name])[name]
            except DsvError as error:
                if error.expected != name:
                    raise
    return found


def build(path: Path, arch: str = "sm_90a") -> tuple[str, ...]:
    """Compile the kernels into one library; needs the compiler, no GPU. Returns their names."""
    from dsv4c.codegen.build import build_kernels
    from dsv4c.codegen.link import link_library
    from dsv4c.codegen.render import render

    entries = build_kernels([render(kind, params, arch) for kind, params in wanted(arch)])
    path.parent.mkdir(parents=True, exist_ok=True)
    link_library([entry.object for entry in entries], path)
    return tuple(entry.name for entry in entries)
