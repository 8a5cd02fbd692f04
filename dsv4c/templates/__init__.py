"""The kernel templates, as text by name. Nothing else: rendering is `dsv4c.codegen.render`."""

from __future__ import annotations

from importlib import resources

SUFFIX = ".py.jinja"


def names() -> tuple[str, ...]:
    """Names of all templates, sorted, without the suffix."""
    files = resources.files(__name__).iterdir()
    return tuple(sorted(f.name.removesuffix(SUFFIX) for f in files if f.name.endswith(SUFFIX)))


def load(name: str) -> str:
    """The text of template `name`.

    Raises:
        FileNotFoundError: there is no such template.
    """
    return resources.files(__name__).joinpath(name + SUFFIX).read_text(encoding="utf-8")
