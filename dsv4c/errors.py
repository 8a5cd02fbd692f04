"""Every error that dsv4c reports to a user: one class, stable codes, one rendering.

This module imports nothing heavy: the command line must start fast and fail fast.
"""

from __future__ import annotations

CODES: dict[str, str] = {
    "DSV101": "the command line or an API argument is not valid",
    "DSV102": "the output path exists and is not a folder that dsv4c made",
    "DSV201": "config.json is missing, unreadable or lacks a field",
    "DSV202": "config.json contradicts itself",
    "DSV203": "the architecture is not DeepSeek-V4",
    "DSV211": "a checkpoint file is missing, truncated or malformed",
    "DSV212": "a tensor of the checkpoint is missing, extra, misnamed or has another shape or dtype",
    "DSV213": "the values of a tensor are outside its format's contract",
    "DSV221": "IR text cannot be parsed",
    "DSV222": "the IR breaks a rule of its stage",
    "DSV231": "the plan folder is missing, incomplete or malformed",
    "DSV232": "a file of the plan differs from its recorded hash",
    "DSV233": "the plan was made for another target or version",
    "DSV241": "token ids are out of range or empty",
    "DSV242": "the context is longer than the session's limit",
    "DSV243": "the session has no such open slot, or none is free",
    "DSV301": "a shape, format or option is not supported",
    "DSV302": "the target is not supported",
    "DSV303": "no template takes a node",
    "DSV401": "a kernel does not compile",
    "DSV402": "the kernel library does not link",
    "DSV501": "a node is beyond its numeric bound",
    "DSV502": "a node made a value that is not finite",
    "DSV601": "the device or its driver is not usable",
    "DSV602": "memory does not suffice",
    "DSV603": "the disk is full or a file cannot be written",
    "DSV604": "the kernel library does not load",
    "DSV901": "an internal rule was broken: a bug in dsv4c",
}

_EXIT_CODES = {"1": 2, "2": 3, "3": 4, "4": 5, "5": 6, "6": 7, "9": 1}


class DsvError(Exception):
    """One failure, told in the user's terms.

    Args:
        code: a key of `CODES`; its first digit decides the exit code.
        what: what happened, one sentence without a full stop.
        where: file, tensor, layer, node or field.
        expected: what would have been right.
        found: what is there instead.
        hint: what to do about it.
    """

    def __init__(
        self,
        code: str,
        what: str,
        *,
        where: str = "",
        expected: str = "",
        found: str = "",
        hint: str = "",
    ) -> None:
        assert code in CODES, f"undeclared error code {code}"
        self.code = code
        self.what = what
        self.where = where
        self.expected = expected
        self.found = found
        self.hint = hint
        super().__init__(str(self))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.code, self.what, self.fields())

    def fields(self) -> dict[str, str]:
        """The location and advice, without the empty ones."""
        names = ("where", "expected", "found", "hint")
        return {name: value for name in names if (value := str(getattr(self, name)))}

    @property
    def exit_code(self) -> int:
        """Exit code of the process (2 usage, 3 input, 4 unsupported, 5 compile, 6 check, 7 run time)."""
        return _EXIT_CODES[self.code[3]]

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.what}"]
        lines += [f"  {name + ':':<10}{value}" for name, value in self.fields().items()]
        return "".join(
            c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in "\n".join(lines)
        )


def _rebuild(code: str, what: str, fields: dict[str, str]) -> DsvError:
    return DsvError(code, what, **fields)
