"""Configurations from YAML files and arguments, laid over each other; their hash, and what they hold by dotted keys."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser

from gapless.config.parsing import check_tree, parse_arguments
from gapless.config.tree import Config
from gapless.errors import ConfigError
from gapless.loss_terms import TERMS

Flat = dict[str, Any]
Tree = TypeVar("Tree")


@cache
def parser_of(kind: Any) -> ArgumentParser:
    """What reads a dataclass from files (``--config``) and from arguments (``--a.b=value``)."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    add_keys(parser, kind)
    return parser


def add_keys(parser: ArgumentParser, kind: Any) -> None:
    """The keys of a dataclass as arguments. In help texts {terms} stands for the names of the loss terms."""
    parser.add_class_arguments(kind, None)
    for action in parser._actions:
        action.help = action.help and action.help.replace("{terms}", ", ".join(TERMS))


def load_config(*paths: Path) -> Config:
    """The training run that YAML files, laid over each other in order, ask for.

    Raises:
        ConfigError: an unknown key, a wrong type, or a value out of its range.
    """
    return load_tree(Config, *paths)


def load_tree(kind: type[Tree], *paths: Path) -> Tree:
    """The same for any dataclass."""
    return read_arguments(kind, [f"--config={path}" for path in paths])


def read_arguments(kind: type[Tree], arguments: Sequence[str]) -> Tree:
    """A dataclass from arguments as they are typed: ``--config`` and ``--a.b=value``.

    Raises:
        ConfigError: an unknown key, a wrong type, or a value out of its range.
    """
    values = vars(parse_arguments(parser_of(kind), arguments))  # type: ignore[arg-type]  # it is hashable
    return kind(**{k: v for k, v in values.items() if k != "config"})


def check_types(config: Any) -> None:
    """Raise ConfigError with the first key of a dataclass whose value is not of its type, or out of its range."""
    check_tree(parser_of(type(config)), asdict(config))  # type: ignore[arg-type]  # it is hashable


def config_file(name: str) -> Path:
    """A file of configs/, in a checkout or as installed.

    Raises:
        ConfigError: there is none of that name.
    """
    roots = [Path(__file__).parents[2] / "configs", Path(sys.prefix) / "share" / "gapless" / "configs"]
    for root in roots:
        if (root / name).is_file():
            return root / name
    raise ConfigError(f"{name} is neither under {roots[0]} nor under {roots[1]}")


def with_changes(config: Config, **changes: Any) -> Config:
    """A copy with some fields replaced; ``data={"batch_size": 8}`` replaces inside a part."""
    parts = {k: replace(getattr(config, k), **v) if isinstance(v, dict) else v for k, v in changes.items()}
    return replace(config, **parts)


def flatten(tree: Flat, prefix: str = "") -> Flat:
    """``{"a": {"b": 1}}`` to ``{"a.b": 1}``; lists and empty dicts are values."""
    flat: Flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def config_hash(config: Any) -> str:
    """Eight characters that two configs share only if they ask for the same run (its name and folder aside)."""
    tree = asdict(config)
    del tree["name"], tree["output"]
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:8]
