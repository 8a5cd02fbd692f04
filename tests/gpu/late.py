"""Whether a kernel waits for the previous one, whose launch it may overlap.

What the previous kernel would have written is copied to its place by a kernel that lets the next one
start first and takes its time (planted/late.py). Until then other values lie there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from harness import Case

Kernel = Callable[..., object]

# Positions of the inputs that kernels just before this one write. Weights and what the host stages
# lie there before; the experts' lists come from two kernels before moe_down.
WRITTEN: dict[str, tuple[int, ...]] = {
    "index_scores": (0, 1, 2),
    "inverse_rope_wo_a": (0,),
    "latent_compress": (0, 3, 4, 9, 10),
    "linears": (0,),
    "mhc_head": (0, 1, 2, 3),
    "mhc_seam": (0, 1, 2, 3),
    "moe_down": (0, 3),
    "moe_gate_up": (0, 1, 2, 3),
    "qnorm_rope_kv_insert": (0, 1),
    "rms_norm": (0,),
    "router": (0,),
    "sample": (0,),
    "sparse_attention": (0, 1, 2, 3, 4),
    "topk_entries": (0,),
}
# Cases that launch several kernels of their own.
OTHERS = ("alone", "batch", "chain", "empty", "far", "pieces", "repeat", "same")
MOST = 16_000_000  # bytes of an input


def applies(kind: str, name: str) -> bool:
    """Whether a case of this kind and name can be run so."""
    return kind in WRITTEN and not any(word in name for word in OTHERS)


def late_places(kind: str, case: Case) -> tuple[int, ...]:
    """Positions of the inputs of a case's kernel that the kernels just before it write."""
    return WRITTEN[kind] if case.late is None else case.late


def differences(kind: str, case: Case, kernel: Kernel, late: Kernel) -> int:
    """Outputs and states that are not bit-equal to those of a run whose inputs were there before.

    Args:
        kind: of the kernel.
        case: what to run; `applies` to it.
        kernel: the kernel.
        late: kernel `late` of planted/late.py.
    """
    inputs, others = case.inputs(0), case.inputs(1)
    places = [i for i in late_places(kind, case) if i < len(inputs)]
    written = [i for i in places if _copied(inputs[i])]
    written = [i for i in written if inputs[i].shape == others[i].shape]
    expected = _run(case, kernel, [one.clone() for one in inputs], [])
    given = [others[i].clone() if i in written else one.clone() for i, one in enumerate(inputs)]
    copies = [(_bytes(inputs[i]), _bytes(given[i])) for i in written]
    got = _run(case, kernel, given, [(late, *pair) for pair in copies])
    return sum(not torch.equal(_bytes(a), _bytes(b)) for a, b in zip(expected, got, strict=True))


def _copied(tensor: torch.Tensor) -> bool:
    return 0 < tensor.nbytes <= MOST and tensor.is_contiguous()


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten().view(torch.uint8)


def _run(
    case: Case,
    kernel: Kernel,
    given: Sequence[torch.Tensor],
    before: Sequence[tuple[Kernel, torch.Tensor, torch.Tensor]],
) -> list[torch.Tensor]:
    outputs = [
        torch.zeros(shape, dtype=dtype, device="cuda") for shape, dtype in case.outputs(given)
    ]
    torch.cuda.synchronize()
    for late, source, target in before:
        late(source, target)
    if case.call:
        case.call(kernel, *given, *outputs)
    else:
        kernel(*given, *outputs)
    torch.cuda.synchronize()
    return [*outputs, *(given[i] for i in case.states)]
