"""Every kernel that is compiled for the checks is checked at every length; runs on the CPU."""

from __future__ import annotations

from types import ModuleType

import pytest
import required


@pytest.mark.parametrize("module", required.modules(), ids=lambda module: module.KIND)
def test_every_kernel_is_checked_at_every_length(module: ModuleType) -> None:
    found = list(required.covered(module))
    assert len({one.kernel for one in found}) == len(module.variants("sm_90a"))
    assert [one for one in found if not one.ok] == []


@pytest.mark.parametrize("module", required.modules(), ids=lambda module: module.KIND)
def test_names_of_cases_are_unique(module: ModuleType) -> None:
    names = [case.name for case in module.cases()]
    assert len(names) == len(set(names))


def test_a_branch_that_no_case_takes_is_missing() -> None:
    text = "if tokens <= 8:\n    a\nelif tokens <= 16:\n    b\nelif 16 < tokens <= 256:\n    c\nelse:\n    d"
    assert required.without({1, 16, 4096}, text) == (17,)
    assert required.without({8, 9, 256}, text) == (257,)
    assert required.without({3}, "no branches") == ()
    assert required.without(set(), "if rows <= 4:") == (1, 5)
