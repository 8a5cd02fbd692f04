"""Blocks of a page that scripts own: `<!-- begin NAME -->`, the text, `<!-- end NAME -->`."""

from __future__ import annotations

import re
from collections.abc import Mapping

_BLOCK = re.compile(r"(<!-- begin (?P<name>.+?) -->\n)(?P<body>.*?)(<!-- end (?P=name) -->)", re.S)


def filled(text: str, bodies: Mapping[str, str]) -> str:
    """The text with the bodies in its blocks of these names.

    Raises:
        LookupError: a name has no block, or a block no name: it would stay as it is.
    """
    names = [block["name"] for block in _BLOCK.finditer(text)]
    if sorted(names) != sorted(bodies):
        odd = sorted(set(names) ^ set(bodies)) or sorted(names)
        raise LookupError(f"blocks of the page and of its script differ: {', '.join(odd)}")
    return _BLOCK.sub(lambda found: f"{found[1]}{bodies[found['name']]}\n{found[4]}", text)
