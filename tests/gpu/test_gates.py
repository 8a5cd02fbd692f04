"""Every gate of the kernel harness trips on the defect it is for; runs on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cases_qnorm_rope_kv_insert as insert
import harness
import pytest
import torch
from harness import Case, Gate, Run, compare, rounding_bound

cpu_only = pytest.mark.skipif(harness.DEVICE != "cpu", reason="stand-ins run on the CPU")


def failed(gates: Sequence[Gate]) -> set[str]:
    return {gate.name for gate in gates if not gate.ok}


def product() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """bf16 result, float64 reference and bound of a [64, 512] x [512, 256] product."""
    make = torch.Generator().manual_seed(0)
    a = torch.randn(64, 512, generator=make, dtype=torch.float64)
    b = torch.randn(512, 256, generator=make, dtype=torch.float64)
    reference = a @ b
    return reference.bfloat16(), reference, rounding_bound(reference, a.abs() @ b.abs(), 512)


def test_a_correctly_rounded_result_passes() -> None:
    gate = compare("y", *product())
    assert gate.ok
    assert 0.9 < gate.ratio <= 1
    assert gate.row_l2 < 2e-3
    assert gate.slope == 0


def _scale(y: torch.Tensor) -> None:
    y *= 1.25


def _zero_row(y: torch.Tensor) -> None:
    y[5] = 0


def _swap_rows(y: torch.Tensor) -> None:
    y[[3, 4]] = y[[4, 3]].clone()


def _unwritten_columns(y: torch.Tensor) -> None:
    y[:, -2:] = 0


def _one_bit(y: torch.Tensor) -> None:
    bits = y.view(torch.int16)
    bits[7, 9] += 1


def _nan(y: torch.Tensor) -> None:
    y[1, 1] = torch.nan


def _inf(y: torch.Tensor) -> None:
    y[1, 1] = torch.inf


@pytest.mark.parametrize(
    "defect", [_scale, _zero_row, _swap_rows, _unwritten_columns, _one_bit, _nan, _inf]
)
def test_a_defect_fails(defect: Callable[[torch.Tensor], None]) -> None:
    y, reference, bound = product()
    defect(y)
    gate = compare("y", y, reference, bound)
    assert not gate.ok
    assert gate.detail


def test_a_slope_within_the_element_bound_fails() -> None:
    y, reference, bound = product()
    gate = compare("y", y.float() * 1.0015, reference, bound)
    assert gate.slope > 1e-3
    assert not gate.ok


def test_a_slope_may_be_off_by_the_rounding_of_an_element_that_dominates() -> None:
    y, reference, _ = product()
    reference[5, 3], y[5, 3] = 901.9, 904.0  # between 900 and 904, next to the tie
    bound = torch.full_like(reference, 4.0)
    gate = compare("y", y, reference, bound, l2=5e-3)
    assert gate.slope > 3e-3
    assert gate.ok
    y[5] *= 1.02
    assert not compare("y", y, reference, bound, l2=5e-2).ok


def test_an_element_that_dominates_may_not_be_off_where_its_rounding_is_certain() -> None:
    y, reference, _ = product()
    reference[5, 3], y[5, 3] = 900.1, 904.0
    gate = compare("y", y, reference, torch.full_like(reference, 5.0), l2=5e-3)
    assert gate.ratio < 1
    assert not gate.ok


def test_clamped_elements_of_one_value_may_all_be_rounded_the_other_way() -> None:
    y, reference, _ = product()
    reference[4], y[4] = 0.5, 0.5
    reference[4, :20], y[4, :20] = 641.9999, 644.0  # between 640 and 644
    bound = reference.abs() * harness.BF16_ROUNDING + 1e-3
    gate = compare("y", y, reference, bound, l2=5e-3)
    assert gate.slope > 2e-3
    assert gate.ok
    reference[4, :20] = 641.99
    assert not compare("y", y, reference, bound + 1e-3, l2=5e-3).ok


def test_a_nan_that_is_expected_passes_and_a_missing_one_fails() -> None:
    y, reference, bound = product()
    reference[2, 2] = torch.nan
    assert not compare("y", y, reference, bound).ok
    y[2, 2] = torch.nan
    assert compare("y", y, reference, bound).ok


def double_case() -> Case:
    """The kernel y = 2 x on [4, 96] bf16 with a state that counts calls."""

    def inputs(seed: int) -> list[torch.Tensor]:
        make = torch.Generator(harness.DEVICE).manual_seed(seed)
        x = torch.randn(4, 96, generator=make, device=harness.DEVICE).bfloat16()
        return [x, torch.zeros(3, dtype=torch.int32, device=harness.DEVICE)]

    def outputs(given: Sequence[torch.Tensor]) -> list[tuple[tuple[int, ...], torch.dtype]]:
        return [((4, 96), torch.bfloat16)]

    def verify(run: Run) -> list[Gate]:
        reference = run.inputs[0].double() * 2
        counted = Gate("counted", run.states[1].tolist() == [1, 0, 0], 0.0)
        return [compare("y", run.outputs[0], reference, 0.004 * reference.abs()), counted]

    return Case("double", "double", inputs, outputs, verify, states=(1,))


def double(x: torch.Tensor, state: torch.Tensor, y: torch.Tensor) -> None:
    y.copy_(2 * x)
    state[0] += 1


def _reads_output(x: torch.Tensor, state: torch.Tensor, y: torch.Tensor) -> None:
    y[:, 1:] = 2 * x[:, 1:]
    state[0] += 1


def _writes_beyond(x: torch.Tensor, state: torch.Tensor, y: torch.Tensor) -> None:
    double(x, state, y)
    y.as_strided((1,), (1,), y.storage_offset() + y.numel())[0] = 1


def _writes_before_state(x: torch.Tensor, state: torch.Tensor, y: torch.Tensor) -> None:
    double(x, state, y)
    state.as_strided((1,), (1,), state.storage_offset() - 1)[0] = 1


def _differs_between_calls(x: torch.Tensor, state: torch.Tensor, y: torch.Tensor) -> None:
    double(x, state, y)
    y[0, 0] *= 1 + 0.001 * float(torch.rand(()))
    y.view(torch.int16)[0, 1] ^= int(torch.randint(2, ()))


def test_the_buffer_gates_pass() -> None:
    assert failed(harness.check(double_case(), double)) == set()


@pytest.mark.parametrize(
    ("kernel", "gates"),
    [
        (_reads_output, {"y", "poison"}),
        (_writes_beyond, {"guards"}),
        (_writes_before_state, {"guards"}),
    ],
)
def test_a_buffer_gate_trips(kernel: Callable[..., object], gates: set[str]) -> None:
    assert failed(harness.check(double_case(), kernel)) == gates


def test_the_repeat_gate_trips() -> None:
    torch.manual_seed(0)
    names = [failed(harness.check(double_case(), _differs_between_calls)) for _ in range(6)]
    assert any("repeat" in name for name in names)


def insert_by_torch(
    q: torch.Tensor,
    kv: torch.Tensor,
    norm: torch.Tensor,
    angles: torch.Tensor,
    cache: torch.Tensor,
    slot: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """The torch baseline of the insert kernel, made to skip negative slots."""
    out.copy_(insert.torch_version(q, kv, norm, angles, cache.clone(), slot.clamp_min(0)))
    keep = slot >= 0
    insert.torch_version(q[keep], kv[keep], norm, angles[keep], cache, slot[keep])


def insert_case(tokens: int, what: str = "check") -> Case:
    return insert.make_case(insert.Setup(tokens, 8, "fp8", what))


@cpu_only
@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_the_insert_gates_pass(tokens: int) -> None:
    assert failed(harness.check(insert_case(tokens), insert_by_torch)) == set()


@cpu_only
@pytest.mark.parametrize(
    ("at", "gates"),
    [
        (lambda page, row: row * 576 + 100, {"codes"}),
        (lambda page, row: row * 576 + 460, {"kv_rope"}),
        (lambda page, row: 128 * 576 + row * 8 + 2, {"scales"}),
        (lambda page, row: 128 * 576 + row * 8 + 7, {"scale_pad"}),
        (lambda page, row: 128 * 584 + 5, {"rest_of_cache"}),
    ],
)
def test_one_wrong_byte_in_the_cache_fails(at: Callable[[int, int], int], gates: set[str]) -> None:
    def kernel(*given: torch.Tensor) -> None:
        insert_by_torch(*given)
        cache, slot = given[4], given[5]
        page, row = divmod(int(slot[0]), 128)
        # Bit 6 doubles a code or a scale many times over, and is not a sign.
        cache[page, at(page, row)] ^= 0x40

    assert failed(harness.check(insert_case(7), kernel)) & gates == gates


@cpu_only
def test_an_insert_in_spite_of_a_negative_slot_fails() -> None:
    def kernel(*given: torch.Tensor) -> None:
        q, kv, norm, angles, cache, slot, out = given
        out.copy_(insert.torch_version(q, kv, norm, angles, cache, slot.clamp_min(0)))

    assert "rest_of_cache" in failed(harness.check(insert_case(7), kernel))
