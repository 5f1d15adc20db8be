"""Texts that name arguments, as a library's user reads them, in the words of the command line."""

import re

from jsonargparse import ArgumentParser

ARGUMENT = re.compile(r"(?<![^\s(])([a-z_][\w.]*)=(\S+)")
"""A word such as ``fresh=true``."""


def as_typed(text: str, parser: ArgumentParser) -> str:
    """The text with every ``name=value`` of a verb as it is typed: ``--fresh``, ``--root=FOLDER``."""
    options = parser._option_string_actions

    def typed(match: re.Match[str]) -> str:
        option = options.get(f"--{match[1]}")
        if option is None:
            return match[0]
        if option.nargs == 0:  # it takes no value
            return re.sub("^true", option.option_strings[0], match[2])
        return f"--{match[0]}"

    return ARGUMENT.sub(typed, text)
