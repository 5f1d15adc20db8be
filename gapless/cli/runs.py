"""What every verb that trains takes: a configuration, and how its run begins or continues."""

from typing import Any, TypeVar

from jsonargparse import ArgumentParser

from gapless.config.files import add_keys
from gapless.run_folder import LATEST

T = TypeVar("T")


def add_run_arguments(parser: ArgumentParser, kind: type) -> None:
    """Arguments of a verb that trains what a dataclass describes."""
    parser.add_argument("--fresh", action="store_true", help="Begin a new run beside the one that has this name.")
    parser.add_argument(
        "--resume",
        type=str,
        default=LATEST,
        help="Checkpoint that an interrupted run continues from: latest, older (the newest whole one), or its name.",
    )
    add_config_arguments(parser, kind)


def add_config_arguments(parser: ArgumentParser, kind: type) -> None:
    """The keys of a configuration, from files and from the command line."""
    parser.add_argument(
        "--config", action="config", help="YAML file of the configuration; several are laid over each other in order."
    )
    add_keys(parser, kind)


def config_of(arguments: Any, kind: type[T]) -> T:
    """The configuration among the arguments."""
    return kind(**{name: getattr(arguments, name) for name in kind.__dataclass_fields__})  # type: ignore[attr-defined]
