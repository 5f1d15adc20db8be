"""What may be different when a run continues, and what makes it another run."""

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gapless.config import Flat, flatten, load_tree
from gapless.engine.checkpoint import Progress
from gapless.engine.parts import RunConfig
from gapless.errors import ConfigError, DataError
from gapless.run_folder import CONFIG_FILE

PLACES = ("data.path", "data.val_path", "data.karpathy", "features.path", "eval.root")
"""Keys that may change when a run continues, if the same data lie there."""
FILES = ("model.name", "model.pretrained", "decoder.name", "decoder.start")
"""Keys that may hold a path, or a name of something else."""
LOCAL = "local-dir:"
EPOCHS = "train.epochs"


def tree_of(config: Any) -> dict[str, Any]:
    """A configuration as YAML gives it back: tuples are lists."""
    tree: dict[str, Any] = _plain(asdict(config))
    return tree


def _plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _plain(v) for k, v in tree.items()}
    return [_plain(v) for v in tree] if isinstance(tree, list | tuple) else tree


def changed_keys(folder: Path, config: RunConfig, free: Sequence[str]) -> list[str]:
    """Keys that a run continues with if its data are the same ones elsewhere, or that only make it longer.

    Raises:
        ConfigError: names the keys that changed and may not.
    """
    try:
        # Loaded as a configuration: keys that it does not know yet have their defaults.
        old = flatten(tree_of(anywhere(load_tree(type(config), folder / CONFIG_FILE), config.name)))
    except (OSError, ConfigError) as error:
        raise DataError(f"{folder / CONFIG_FILE} cannot be read ({error}); fresh=true starts anew beside it") from None
    new = flatten(tree_of(config))
    changed = [k for k in sorted(set(old) | set(new)) if old.get(k) != new.get(k) and not k.startswith(tuple(free))]
    refused = [k for k in changed if k not in (*PLACES, EPOCHS)]
    reasons = "; ".join(f"{k} was {old.get(k)!r}, is {new.get(k)!r}" for k in changed)
    if refused:
        raise ConfigError(f"{folder} began with another configuration: {reasons}. Use fresh=true or name=ANOTHER")
    if EPOCHS in changed:
        bound = bound_to_the_end(new)
        if bound or new[EPOCHS] < old[EPOCHS]:
            why = f"{bound} depends on the number of steps" if bound else "a run can only be made longer"
            raise ConfigError(f"{EPOCHS}: {folder} began with {old[EPOCHS]}, not {new[EPOCHS]}, and {why}")
    return changed


def bound_to_the_end(config: Flat) -> str | None:
    """The key of a schedule that knows how long the run is; None if every step is the same however many follow."""
    if config["optim.schedule"] != "constant":
        return f"optim.schedule={config['optim.schedule']}"
    ramps = sorted({k.rpartition(".")[0] for k in config if k.endswith(".from")})
    return next((k for k in ramps if config.get(f"{k}.start", 0) <= 1 or config.get(f"{k}.end", 1) <= 1), None)


def refuse_other_data(folder: Path, changed: Sequence[str], fingerprint: str, progress: Progress) -> None:
    """A run continues with the data that it began with, wherever they lie now.

    Raises:
        ConfigError: others lie at a new place, or a run of before did not note what it began with.
        DataError: those at the old place have changed.
    """
    moved = [k for k in changed if k in PLACES]
    if moved and progress.data != fingerprint:
        raise ConfigError(f"{', '.join(moved)}: {folder} began with other data. Use fresh=true or name=ANOTHER")
    if progress.data not in ("", fingerprint):
        raise DataError(
            f"data: pairs were added, removed or changed since {folder} began. Use fresh=true or name=ANOTHER"
        )
    progress.data = fingerprint


def anywhere(config: Any, name: str) -> Any:
    """The configuration with its name filled in and absolute paths, so that it works in any working directory."""
    flat = flatten(asdict(config))
    for key in (*PLACES, *FILES):
        part, _, field = key.partition(".")
        old = flat.get(key)
        if old and (key in PLACES or Path(old.removeprefix(LOCAL)).exists()):
            new = "::".join(_absolute(place) for place in old.split("::"))
            config = replace(config, **{part: replace(getattr(config, part), **{field: new})})
    return replace(config, name=name)


def _absolute(path: str) -> str:
    if path.startswith(LOCAL):
        return LOCAL + os.path.abspath(path.removeprefix(LOCAL))
    return path if ":" in path else os.path.abspath(path)  # addresses, and pipe:
