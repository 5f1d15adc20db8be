"""Arguments of a verb as rows of a table."""

from typing import Any

from jsonargparse import ArgumentParser

Option = tuple[str, Any, Any, str]
"""Name, type, default and help of an argument ``--name``."""


def add_options(parser: ArgumentParser, *options: Option) -> None:
    """Add arguments that have a default."""
    for name, kind, default, text in options:
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
