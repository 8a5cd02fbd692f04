"""Plans to report on: a small one that was compiled, Pro without weights, and a browser."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import bare
import browser
import pytest
import small

import dsv4c
from dsv4c.plan.plan import Plan
from dsv4c.report.export_json import ReportView, report_view


@pytest.fixture(scope="session")
def small_plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Four small layers, for the CPU."""
    folder = tmp_path_factory.mktemp("small")
    return dsv4c.compile(small.write_small(folder / "model"), folder / "plan")


@pytest.fixture(scope="session")
def small_report(small_plan: Plan) -> ReportView:
    return report_view(small_plan)


@pytest.fixture(scope="session")
def pro_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """61 layers for sm_90a; no weights, made-up resources."""
    return bare.write_bare_plan(tmp_path_factory.mktemp("pro") / "plan")


@pytest.fixture(scope="session")
def pro_report(pro_folder: Path) -> ReportView:
    return report_view(Plan.load(pro_folder, check_weights=False))


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Generator[browser.Browser]:
    """A page of a headless Chromium; tests are skipped where there is none."""
    if browser.program() is None:
        pytest.skip("there is no Chromium")
    made = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()
