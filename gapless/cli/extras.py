"""Extras of the package that a verb needs."""

import importlib.util

from gapless.errors import ConfigError


def needs_caption_extra() -> None:
    """Raise ConfigError if the extra is not installed."""
    for name in ("transformers", "pycocoevalcap"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f'gapless caption needs {name}: pip install "gapless[caption]"')
