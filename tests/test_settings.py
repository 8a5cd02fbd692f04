from __future__ import annotations

from pathlib import Path

import pytest

from dsv4c import settings
from dsv4c.errors import DsvError


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in settings.SETTINGS:
        monkeypatch.delenv(setting.name, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_every_setting_is_declared_whole() -> None:
    names = [setting.name for setting in settings.SETTINGS]
    assert len(set(names)) == len(names)
    for setting in settings.SETTINGS:
        assert setting.name.startswith(settings.PREFIX)
        assert setting.doc
        assert setting.kind
        assert setting.resolve().origin == "default"


def test_flag_beats_environment_beats_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.frozen() is False
    monkeypatch.setenv("DSV4C_FROZEN", "yes")
    assert settings.FROZEN.resolve() == settings.Resolved(True, "env")
    assert settings.FROZEN.resolve(False) == settings.Resolved(False, "flag")
    monkeypatch.setenv("DSV4C_FROZEN", "")
    assert settings.FROZEN.resolve() == settings.Resolved(False, "default")


def test_cache_dir_follows_the_xdg_convention(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.cache_dir() == Path.home() / ".cache" / "dsv4c"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert settings.cache_dir() == Path("/xdg/dsv4c")
    monkeypatch.setenv("DSV4C_CACHE_DIR", "~/kernels")
    assert settings.cache_dir() == Path.home() / "kernels"
    assert settings.cache_dir(Path("/flag")) == Path("/flag")


def test_log_levels_by_area(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.log_levels() == {"": "warning"}
    monkeypatch.setenv("DSV4C_LOG", "info, passes=debug")
    assert settings.log_levels() == {"": "info", "passes": "debug"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DSV4C_JOBS", "0"),
        ("DSV4C_JOBS", "many"),
        ("DSV4C_FROZEN", "maybe"),
        ("DSV4C_LOG", "passes=loud"),
    ],
)
def test_a_bad_value_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(name, text)
    setting = next(setting for setting in settings.SETTINGS if setting.name == name)
    with pytest.raises(DsvError) as caught:
        setting.resolve()
    assert caught.value.exit_code == 2
    assert caught.value.fields() == {
        "where": name,
        "expected": setting.kind,
        "found": repr(text),
    }


def test_unknown_variables_come_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.unknown_variables() == []
    monkeypatch.setenv("DSV4C_CACHEDIR", "/x")
    monkeypatch.setenv("DSV4C_QQQQ", "1")
    assert settings.unknown_variables() == [
        ("DSV4C_CACHEDIR", "DSV4C_CACHE_DIR"),
        ("DSV4C_QQQQ", None),
    ]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [("NO_COLOR", "1", False), ("NO_COLOR", "", True), ("TERM", "dumb", False)],
)
def test_color(monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: bool) -> None:
    monkeypatch.setenv(name, value)
    assert settings.color_allowed() is allowed
