"""jsonargparse with errors that are one line: the key, what is wrong, and the nearest right name."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, set_parsing_settings

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
    try:
        return parser.instantiate(parser.parse_args(given))
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
    flat = re.sub(r"^Parser key \"([\w.]+)\":", r"\1:", flat)
    flat = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\].*Given value: (.*)",
        r"\2 is none of \1",
        flat,
    )
    return re.sub(r"typing\.|<class '(\w+)'>", r"\1", flat)[:300]
