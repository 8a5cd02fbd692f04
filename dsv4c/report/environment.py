"""What `dsv4c env` shows: settings with their origin, versions, devices, the C compiler."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib import metadata
from typing import TypedDict

from dsv4c import __version__, hardware, settings


class SettingView(TypedDict):
    name: str
    value: str | int | bool
    origin: str
    kind: str
    doc: str


class GpuView(TypedDict):
    name: str
    capability: str
    memory: int
    target: str | None


class Environment(TypedDict):
    settings: list[SettingView]
    versions: dict[str, str | None]
    gpus: list[GpuView]
    target: str
    gcc: str | None


def environment() -> Environment:
    """Settings, versions, GPUs and the C compiler of this machine; imports none of them."""
    return {
        "settings": [_setting(setting) for setting in settings.SETTINGS],
        "versions": _versions(),
        "gpus": [_gpu(gpu) for gpu in hardware.gpus()],
        "target": hardware.default_target(),
        "gcc": _gcc(),
    }


def _setting(setting: settings.AnySetting) -> SettingView:
    resolved = setting.resolve()
    value = resolved.value
    if isinstance(value, dict):
        value = ",".join(f"{area}={level}" if area else level for area, level in value.items())
    return {
        "name": setting.name,
        "value": value if isinstance(value, int) else str(value),
        "origin": resolved.origin,
        "kind": setting.kind,
        "doc": setting.doc,
    }


def _gpu(gpu: hardware.Gpu) -> GpuView:
    major, minor = gpu.capability
    return {
        "name": gpu.name,
        "capability": f"{major}.{minor}",
        "memory": gpu.memory,
        "target": gpu.target,
    }


def _versions() -> dict[str, str | None]:
    installed = {dist.name: dist.version for dist in metadata.distributions()}
    cutlass = sorted(name for name in installed if name.startswith("nvidia-cutlass-dsl"))
    names = ["torch", "apache-tvm-ffi", *(cutlass or ["nvidia-cutlass-dsl"])]
    own = {"dsv4c": __version__, "python": platform.python_version()}
    return own | {name: installed.get(name) for name in names}


def _gcc() -> str | None:
    path = shutil.which("gcc")
    if path is None:
        return None
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return next(iter(done.stdout.splitlines()), path)
