"""Types of keys and arguments: numbers in a range, paths, separators; ``--help`` names them.

What the parser returns is a plain number, string or path: neither YAML nor torch's files know types of jsonargparse.
"""

import os
import re
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import typing as restricted
from jsonargparse.typing import register_type, restricted_number_type

FAILS = (ValueError, TypeError, AttributeError, OverflowError)
VARIABLE = re.compile(r"\$\{(\w+)\}")
LARGEST = 2**63 - 1
NO_BREAK = "\u00a0"


def wrong(value: Any, words: str) -> ValueError:
    """The error of a value that does not work, and what it must be."""
    shown = str(value) if len(str(value)) <= 80 else f"{str(value)[:77]}..."
    # jsonargparse cuts " VALUE " out of messages; parsing.py turns these spaces into common ones.
    return ValueError(f"{shown} does not work, it must be {words}".replace(" ", NO_BREAK))


def _checked(kind: Any, plain: type, words: str) -> Any:
    """A restricted number of jsonargparse that becomes a plain one, or says in words what would work."""

    def read(value: Any) -> Any:
        try:
            return plain(kind(value))
        except FAILS:
            raise wrong(value, words) from None

    register_type(kind, plain, read)
    return kind


def number(name: str, base: type, words: str, *limits: tuple[str, float]) -> Any:
    """A type of numbers in a range.

    Args:
        name: what ``--help`` shows.
        base: int or float.
        words: what a value must be, for messages.
        limits: such as ``(">=", 1)``.
    """
    return _checked(restricted_number_type(name, base, list(limits)), base, words)


def _text(name: str, read: Callable[[str], str]) -> Any:
    """A string that ``read`` returns as it is meant, or raises ValueError."""
    kind = type(name, (str,), {})

    def read_text(value: Any) -> str:
        if not isinstance(value, str):
            raise wrong(value, "a text (quotation marks make it one)")
        return read(value)

    register_type(kind, str, read_text)
    return kind


def expand(path: str) -> str:
    """A path with ``~`` at its beginning and every ``${VARIABLE}`` replaced.

    ``~`` is understood after ``local-dir:`` and ``::`` too. A command (``pipe:``) is left to its shell.

    Raises:
        ValueError: a variable that is not set, or a NUL character.
    """
    if "\0" in path:
        raise ValueError(f"{path!r} has a NUL character, which no file name holds")
    return "::".join(part if part.startswith("pipe:") else _expand(part) for part in path.split("::"))


def _expand(path: str) -> str:
    for name in VARIABLE.findall(path):
        if name not in os.environ:
            raise ValueError(f"the environment variable {name} is not set (in {path})")
    filled = VARIABLE.sub(lambda match: os.environ[match[1]], path)
    prefix = "local-dir:" if filled.startswith("local-dir:") else ""
    return prefix + os.path.expanduser(filled.removeprefix(prefix))


def _path(value: Any) -> Path:
    if not isinstance(value, str):
        raise wrong(value, "a path")
    if not value:
        raise ValueError("the path is empty")
    return Path(expand(value))


def _separator(text: str) -> str:
    if text == "\\t":
        return "\t"  # as most shells pass it on
    if len(text) != 1 or text in '\n\r"\0':
        raise wrong(repr(text), "one character such as , or ; (\\t is a tab)")
    return text


register_type(Path, str, _path, type_check=isinstance)

# Types of a class must not stand in its own module: jsonargparse would read this block there.
if TYPE_CHECKING:
    PositiveInteger = int
    NonNegativeInteger = int
    AtLeastTwo = int
    Seed = int
    VocabularySize = int
    PositiveNumber = float
    NonNegativeNumber = float
    FiniteNumber = float
    ClosedUnitInterval = float
    OpenUnitInterval = float
    FractionAboveZero = float
    FractionBelowOne = float
    UpToHalf = float
    Location = str
    Separator = str
else:
    PositiveInteger = number("PositiveInteger", int, "a whole number of at least 1", (">=", 1), ("<=", LARGEST))
    NonNegativeInteger = number("NonNegativeInteger", int, "a whole number, 0 or more", (">=", 0), ("<=", LARGEST))
    AtLeastTwo = number("AtLeastTwo", int, "a whole number of at least 2", (">=", 2), ("<=", LARGEST))
    Seed = number("Seed", int, "a whole number from 0 to 2^63 - 1", (">=", 0), ("<", LARGEST + 1))
    VocabularySize = number(
        "VocabularySize", int, "a whole number of at least 300 (bytes are 256)", (">=", 300), ("<=", LARGEST)
    )
    PositiveNumber = number("PositiveNumber", float, "a finite number above 0", (">", 0), ("<", inf))
    NonNegativeNumber = number("NonNegativeNumber", float, "a finite number, 0 or more", (">=", 0), ("<", inf))
    FiniteNumber = number("FiniteNumber", float, "a finite number", (">", -inf), ("<", inf))
    ClosedUnitInterval = _checked(restricted.ClosedUnitInterval, float, "a number from 0 to 1")
    OpenUnitInterval = _checked(restricted.OpenUnitInterval, float, "a number between 0 and 1, neither of them")
    FractionAboveZero = number("FractionAboveZero", float, "a number above 0 and at most 1", (">", 0), ("<=", 1))
    FractionBelowOne = number("FractionBelowOne", float, "a number from 0 up to but not 1", (">=", 0), ("<", 1))
    UpToHalf = number("UpToHalf", float, "a number from 0 to 0.5", (">=", 0), ("<=", 0.5))
    Location = _text("Location", expand)
    Separator = _text("Separator", _separator)
