"""jsonargparse with errors that are one line: the key, what is wrong, and the nearest right name."""

import ast
import difflib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from jsonargparse import ArgumentParser, set_parsing_settings

from gapless.config.arguments import NO_BREAK
from gapless.config.overlays import lay_over
from gapless.errors import ConfigError

EXPECTED = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "list": "a list such as [a, b]",
    "tuple": "a list such as [a, b]",
    "dict": "a mapping such as {key: value}",
    "NoneType": "a mapping such as {key: value}",
}
"""Types of Python in words of a user."""

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def parse_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> Any:
    """Parse, with nested dataclasses built.

    Args:
        parser: made with ``exit_on_error=False``.
        arguments: as typed; wandb's ``None``, alone or inside a list, counts as null, ``--no-cache`` as ``--no_cache``.

    Raises:
        ConfigError: one line that names the key.
    """
    given = [_as_named(a) if a.startswith("--") else _as_yaml(a) for a in arguments]
    with _in_one_line(parser):
        return parser.instantiate(parser.parse_args(lay_over(parser, given)))


def check_tree(parser: ArgumentParser, tree: dict[str, Any]) -> None:
    """Check the values of a configuration that was made in code.

    Raises:
        ConfigError: one line that names the key.
    """
    with _in_one_line(parser):
        parser.parse_object(tree)


@contextmanager
def _in_one_line(parser: ArgumentParser) -> Iterator[None]:
    try:
        yield
    except SystemExit:  # --help and --print_config
        raise
    except ConfigError as error:
        raise ConfigError(" ".join(str(error).split())[:400]) from error  # names of files may hold line feeds
    except RecursionError:
        raise ConfigError("a value is nested too deeply") from None
    except Exception as error:
        raise ConfigError(_one_line(str(error), [action.dest for action in parser._actions])) from error


def _as_named(option: str) -> str:
    name, equals, value = option.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{_as_yaml(value)}"


def _as_yaml(value: str) -> str:
    """A value as wandb writes it, with Python's None alone or inside of a list or mapping, as YAML."""
    if value == "None":
        return "null"
    if value[:1] in ("[", "{") and "None" in value:
        with suppress(ValueError, SyntaxError):
            return json.dumps(ast.literal_eval(value))
    return value


def _one_line(message: str, keys: list[str]) -> str:
    """jsonargparse's message, of any length, as a line with the key and, for unknown keys, the nearest one."""
    flat = " ".join(message.split())
    key = ".".join(dict.fromkeys(re.findall(r"Parser key \"([\w.]+)\"", message)))
    for pattern in (
        r"unrecognized arguments: --?([\w.]+)",
        r"does not accept option '([\w.]+)'",
        r"Key '([\w.]+)' is not expected",
        r"[Uu]nknown key '?([\w.]+)",
        r"Option '([\w.]+)' is not accepted",
        r"NestedArg\(key='([\w.]+)'",
    ):
        if match := re.search(pattern, flat):
            group = re.search(r"Group '([\w.]+)'", flat)
            above = group[1] if group else key
            name = f"{above}.{match[1]}" if above and not match[1].startswith(f"{above}.") else match[1]
            close = difflib.get_close_matches(name, keys, n=1)
            return f"{name}: unknown key" + (f", did you mean {close[0]}?" if close else "")
    return " ".join((f"{key}: {_reason(message)}" if key else flat).split())[:300]


def _reason(message: str) -> str:
    """What is wrong with a value, and what it must be."""
    given = re.search(r"Given value: (.*)", message, re.DOTALL) or re.search(r"Got value: (.*)", message, re.DOTALL)
    value = _short(given[1]) if given else "the value"
    is_mapping = "Given value type: <class 'dict'>" in message
    null = ", or null" if re.search(r"Subtypes: .*NoneType", message) else ""
    if keys := re.search(r"(Missing required|Unexpected) keys: {(.*?)}", message):
        return f"{value} {'has no key' if keys[1][0] == 'M' else 'has the unknown key'} {_unquoted(keys[2])}"
    own = re.search(r"Not of type \w+: (.*)", message)
    words = re.search(r"Expected a typing\.Literal\[(.*?)\](?:\. Got value: (.*))?", message)
    if words and (is_mapping or not own):
        return f"{_short(words[2]) if words[2] else value} is not one of {_unquoted(words[1])}{null}"
    if own:
        reason = own[1].replace(NO_BREAK, " ")
        return reason + (null if "it must be" in reason else "")
    if expected := re.search(r"Expected a (?:<class '(\w+)'>|(tuple with \d+ elements))", message):
        kind = EXPECTED.get(expected[1]) or (expected[2] or expected[1]).replace("tuple with", "a list of")
        return f"{value} does not work, it must be {kind}{null}"
    return re.sub(r"^Parser key \"[\w.]+\"[^:]*:", "", message)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 80 else f"{flat[:77]}..."


def _unquoted(names: str) -> str:
    return names.replace("'", "")
