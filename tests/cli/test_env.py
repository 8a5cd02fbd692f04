from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from dsv4c import __version__, hardware
from dsv4c.cli import main
from dsv4c.report import environment
from dsv4c.settings import SETTINGS


def test_json_document(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DSV4C_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("DSV4C_FROZEN", "1")
    result = CliRunner().invoke(main, ["env", "--json"])
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["schema"] == "dsv4c.env/1"
    assert set(document) == {"schema", "settings", "versions", "gpus", "target", "gcc"}
    settings = {setting["name"]: setting for setting in document["settings"]}
    assert list(settings) == [setting.name for setting in SETTINGS]
    assert settings["DSV4C_CACHE_DIR"]["value"] == str(tmp_path)
    assert settings["DSV4C_CACHE_DIR"]["origin"] == "env"
    assert settings["DSV4C_FROZEN"]["value"] is True
    assert settings["DSV4C_LOG"] | {"doc": ""} == {
        "name": "DSV4C_LOG",
        "value": "warning",
        "origin": "default",
        "kind": "LEVEL or AREA=LEVEL, comma separated; LEVEL is debug, info, warning or error",
        "doc": "",
    }
    assert document["versions"]["dsv4c"] == __version__
    assert document["versions"]["python"] == platform.python_version()
    assert document["versions"]["torch"] == metadata.version("torch")
    assert document["versions"]["nvidia-cutlass-dsl-libs-base"]


def test_text_names_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = hardware.Gpu("NVIDIA H100", (9, 0), 85_000_000_000)
    monkeypatch.setattr(hardware, "gpus", lambda: (gpu,))
    lines = CliRunner().invoke(main, ["env"]).stdout.splitlines()
    assert "gpu                      NVIDIA H100, 85.0 GB" in lines
    assert "target of --target auto  sm_90a" in lines


def test_a_machine_without_gpu_and_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        del name

    monkeypatch.setattr(hardware, "gpus", tuple)
    monkeypatch.setattr(environment.shutil, "which", nothing)
    document = environment.environment()
    assert (document["gpus"], document["target"], document["gcc"]) == ([], "cpu", None)
    assert "gpu                      none" in CliRunner().invoke(main, ["env"]).stdout
