"""Typed access to the fields of a JSON object, with errors that say which field is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

from dsv4c.errors import DsvError

T = TypeVar("T")
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object and where it comes from.

    Attributes:
        raw: the object.
        where: the file.
        prefix: path of this object inside the file, with a trailing dot.
    """

    raw: Mapping[str, object]
    where: str
    prefix: str = ""

    def error(
        self,
        code: str,
        name: str,
        what: str,
        expected: object = "",
        found: object = _ABSENT,
        hint: str = "",
    ) -> DsvError:
        """An error about one field; `found` is its value unless given."""
        if found is _ABSENT:
            found = self.raw.get(name, "nothing")
        return DsvError(
            code,
            f"the field {self.prefix}{name} {what}",
            where=self.where,
            expected=str(expected),
            found=str(found),
            hint=hint,
        )

    def integer(self, name: str, default: int | None = None, least: int = 1) -> int:
        """An integer of at least `least`; DSV201 otherwise."""
        value = self.raw.get(name, default)
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        raise self._wrong(name, f"an integer of at least {least}")

    def number(self, name: str) -> float:
        """A positive finite number; DSV201 otherwise."""
        value = self.raw.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            number = float(value)
            if number > 0 and math.isfinite(number):
                return number
        raise self._wrong(name, "a positive number")

    def token(self, name: str) -> int | None:
        """A token id, or None where it is absent or null; DSV201 otherwise."""
        return None if self.raw.get(name) is None else self.integer(name, least=0)

    def tokens(self, name: str) -> tuple[int, ...]:
        """One token id or a list of them, as a tuple; DSV201 otherwise."""
        value = self.raw.get(name)
        if not isinstance(value, list):
            token = self.token(name)
            return () if token is None else (token,)
        ids = cast(list[object], value)
        if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
            raise self._wrong(name, "token ids")
        return tuple(cast(list[int], ids))

    def items(self, name: str, length: int | None = None) -> list[object] | None:
        """A list, or None where it is absent or null; DSV201, or DSV202 for a wrong length."""
        value = self.raw.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self._wrong(name, "a list")
        items = cast(list[object], value)
        if length is not None and len(items) != length:
            text = f"{length} entries, one per layer of num_hidden_layers"
            raise self.error("DSV202", name, "has a wrong length", text, len(items))
        return items

    def section(self, name: str) -> Fields | None:
        """A nested object, or None where it is absent or null; DSV201 otherwise."""
        value = self.raw.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(name, "an object")
        return Fields(cast(dict[str, object], value), self.where, f"{self.prefix}{name}.")

    def choice(self, name: str, value: object, choices: Mapping[str, T] | Mapping[int, T]) -> T:
        """What an entry of the field stands for; DSV301 if it stands for nothing."""
        table = cast(Mapping[object, T], choices)
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value not in table:
            known = ", ".join(str(key) for key in table)
            raise self.error("DSV301", name, "has an entry that is not supported", known, value)
        return table[value]

    def _wrong(self, name: str, expected: str) -> DsvError:
        what = "has a wrong value" if name in self.raw else "is missing"
        return self.error("DSV201", name, what, expected)
