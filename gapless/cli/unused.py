"""Arguments that would do nothing beside the others of a command are refused, not ignored."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from jsonargparse import ArgumentParser

from gapless.config import flatten
from gapless.errors import ConfigError

Unused = Mapping[str, str]
"""Arguments that a command does not use, each with the reason; a name stands for all keys below it too."""


def refuse_unused(arguments: Any, parser: ArgumentParser, unused: Unused) -> None:
    """Raise ConfigError with the first argument that has another value than its default and is not used.

    Args:
        arguments: of the command, as they were parsed.
        parser: that parsed them.
        unused: arguments that the command does not use.
    """
    if not unused:
        return
    given, default = _values(arguments), _values(parser.instantiate(parser.get_defaults()))
    for name, reason in unused.items():
        for key, value in given.items():
            if (key == name or key.startswith(f"{name}.")) and value != default.get(key):
                raise ConfigError(f"{key}: {reason}")


def _values(arguments: Any) -> dict[str, Any]:
    """Every argument by its dotted key."""
    tree = {key: asdict(value) if is_dataclass(value) else value for key, value in vars(arguments).items()}  # type: ignore[arg-type]
    return flatten(tree)
