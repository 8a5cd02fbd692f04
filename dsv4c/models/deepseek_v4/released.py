"""The configurations of the released models, as data."""

from __future__ import annotations

import json
from pathlib import Path

from dsv4c.errors import DsvError

RELEASED = ("flash", "pro")


def read_config(name: str) -> dict[str, object]:
    """Content of a config.json.

    Args:
        name: "flash" or "pro", a config.json, or a folder that holds one.

    Raises:
        DsvError: DSV201, there is none, or it is no JSON object.
    """
    path = Path(__file__).with_name(f"{name}.json") if name in RELEASED else Path(name)
    if path.is_dir():
        path /= "config.json"
    try:
        raw: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DsvError(
            "DSV201",
            "there is no such configuration",
            where=str(path),
            expected=f"{' or '.join(RELEASED)}, or a config.json",
            found="nothing",
        ) from None
    except (OSError, ValueError) as error:
        message = "config.json cannot be read"
        raise DsvError("DSV201", message, where=str(path), found=str(error)) from None
    if not isinstance(raw, dict):
        message = "config.json is not a JSON object"
        raise DsvError("DSV201", message, where=str(path), found=type(raw).__name__)
    return raw
