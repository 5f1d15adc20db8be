"""jsonargparse with errors that are one line: the key, what is wrong, and the nearest right name."""

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import ArgumentParser, set_parsing_settings

from gapless.arguments import NO_BREAK
from gapless.errors import ConfigError

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def parse_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> Any:
    """Parse, with nested dataclasses built.

    Args:
        parser: made with ``exit_on_error=False``.
        arguments: as typed; wandb's ``--key=None`` counts as ``--key=null``, and ``--no-cache`` as ``--no_cache``.

    Raises:
        ConfigError: one line that names the key.
    """
    given = [_as_named(a) if a.startswith("--") else a for a in arguments]
    with _told_in_a_line(parser):
        return parser.instantiate(parser.parse_args(given))


def check_tree(parser: ArgumentParser, tree: dict[str, Any]) -> None:
    """Check the values of a configuration that was made in code.

    Raises:
        ConfigError: one line that names the key.
    """
    with _told_in_a_line(parser):
        parser.parse_object(tree)


@contextmanager
def _told_in_a_line(parser: ArgumentParser) -> Iterator[None]:
    try:
        yield
    except SystemExit:  # --help and --print_config
        raise
    except Exception as error:
        raise ConfigError(_one_line(str(error), [action.dest for action in parser._actions])) from error


def _as_named(option: str) -> str:
    name, equals, value = option.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{'null' if value == 'None' else value}"


def _one_line(message: str, keys: list[str]) -> str:
    """jsonargparse's message, of any length, as a line with the key and, for unknown keys, the nearest one."""
    flat = " ".join(message.split())
    for pattern in (
        r"unrecognized arguments: --?([\w.]+)",
        r"does not accept option '([\w.]+)'",
        r"Key '([\w.]+)' is not expected",
        r"[Uu]nknown key '?([\w.]+)",
    ):
        if match := re.search(pattern, flat):
            group = re.search(r"Group '([\w.]+)'", flat)
            key = f"{group[1]}.{match[1]}" if group and not match[1].startswith(f"{group[1]}.") else match[1]
            close = difflib.get_close_matches(key, keys, n=1)
            return f"{key}: unknown key" + (f", did you mean {close[0]}?" if close else "")
    key, reason = _reason(message)
    return f"{key}: {reason}"[:300] if key else reason[:300]


def _reason(message: str) -> tuple[str, str]:
    """The key that jsonargparse names, and what is wrong with its value, in words of a user."""
    found = re.match(r"Parser key \"([\w.]+)\"[^:]*:\n\s*(.*)", message, re.DOTALL)
    key, text = (found[1], found[2]) if found else ("", message)
    given = re.search(r"Given value: (.*)", text, re.DOTALL)
    value = given[1] if given else None
    kinds = re.search(r"Subtypes: \[(.*)\]", text)
    or_null = ", or null" if kinds and "NoneType" in kinds[1] else ""
    if own := re.findall(r"Not of type \w+: (.*)", text):
        reason = " ".join(own[0].replace(NO_BREAK, " ").split())
        return key, reason + (or_null if "it must be" in reason else "")
    if words := re.search(r"Literal\[(.*?)\]", text):
        got = value or re.sub(r".*Got value: ", "", text, flags=re.DOTALL)
        return key, f"{' '.join(got.split())} is not one of {words[1].replace(chr(39), '')}{or_null}"
    text = f"{value} is none of {kinds[1]}" if kinds else text
    return key, " ".join(re.sub(r"typing\.|<class '(\w+)'>", r"\1", text).split())
