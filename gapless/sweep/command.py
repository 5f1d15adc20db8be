"""The command line of a run, as wandb's agent fills it in, and the configuration that it trains."""

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gapless.config import Config, read_arguments
from gapless.config.rules import check_config
from gapless.errors import ConfigError
from gapless.sweep.file import Sweep

COMMAND = ("${env}", "accelerate", "launch", "-m", "${program}", "train", "${args}")
"""Where the file has none."""
ENVIRONMENT_VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


def command_of(sweep: Sweep, parameters: dict[str, Any], json_file: Path) -> list[str]:
    """The words of a command.

    Args:
        sweep: whose command, or the default.
        parameters: of the run, as wandb passes them: a nested one is a mapping, ``--optim={'lr': 0.001}``.
        json_file: path for the macro args_json_file; who runs the command writes the file.

    Raises:
        ConfigError: a macro that wandb does not document.
    """
    macros = _macros(sweep, parameters, json_file)
    words: list[str] = []
    for word in sweep.command or COMMAND:
        # A variable that is not set leaves its name, as with wandb.
        filled = ENVIRONMENT_VARIABLE.sub(lambda match: os.environ.get(match[1], match[1]), word)
        if filled.startswith("${") and filled.endswith("}"):
            if filled not in macros:
                raise ConfigError(f"command: {filled} is not one of {', '.join(macros)}, ${{envvar:NAME}}")
            words += macros[filled]
        else:
            words.append(filled)
    if sweep.project and "train" in words:  # first, so that the command's own key stands against it
        words.insert(words.index("train") + 1, f"--tracking.project={sweep.project}")
    return words


def _macros(sweep: Sweep, parameters: dict[str, Any], json_file: Path) -> dict[str, list[str]]:
    pairs = [f"{name}={value}" for name, value in parameters.items()]
    flags = {name: f"--{pair}" for name, pair in zip(parameters, pairs, strict=True)}
    flags |= {name: f"--{name}" if value else "" for name, value in parameters.items() if isinstance(value, bool)}
    return {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": [sys.executable],
        "${program}": [sweep.program or "gapless"],
        "${args}": [f"--{pair}" for pair in pairs],
        "${args_no_equals}": [word for name, value in parameters.items() for word in (f"--{name}", str(value))],
        "${args_no_boolean_flags}": [flag for flag in flags.values() if flag],
        "${args_no_hyphens}": pairs,
        "${args_append_hydra}": [f"+{pair}" for pair in pairs],
        "${args_override_hydra}": [f"++{pair}" for pair in pairs],
        "${args_json}": [json.dumps(parameters)],
        "${args_json_file}": [str(json_file)],
    }


def config_of(command: Sequence[str]) -> Config:
    """The configuration of the run that a command trains.

    Raises:
        ConfigError: it does not run ``gapless train``, or with arguments that do not work.
    """
    if "train" not in command:
        raise ConfigError(f"command: {' '.join(command)} does not run gapless train")
    words = list(command)[list(command).index("train") + 1 :]
    for word in ("--fresh", "--help", "-h", "--print_config"):
        if word in words:
            raise ConfigError(f"command: {word} does not work in a sweep, whose runs are trained once and continued")
    config = read_arguments(Config, words)
    check_config(config)
    return config
