"""What a sweep file of wandb says: every key of its schema is honoured, or refused by name in one line."""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gapless.errors import ConfigError
from gapless.sweep.parameters import Parameter, is_plain, read_parameters, refuse

Check = tuple[str, Callable[[Any], bool]]
"""What a value must be, in words, and whether it is."""


@dataclass(frozen=True)
class Metric:
    """What a search looks for."""

    name: str
    goal: str = "minimize"
    """minimize or maximize."""
    target: float | None = None
    """No new run begins once one has reached it."""
    impute: str = "worst"
    """Which value a failed run counts with: the worst or the best so far, or the latest that it logged."""
    impute_while_running: str = "false"

    @property
    def sign(self) -> int:
        """1 if more is better, else -1."""
        return 1 if self.goal == "maximize" else -1


@dataclass(frozen=True)
class Sweep:
    """A sweep file, checked."""

    method: str
    """grid, random or bayes."""
    parameters: tuple[Parameter, ...]
    """In wandb's order: by name, level by level."""
    title: str
    metric: Metric | None = None
    command: tuple[str, ...] | None = None
    program: str | None = None
    run_cap: int | None = None
    project: str | None = None
    entity: str | None = None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and is_plain(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


TEXT: Check = ("a text", _is_text)
KEYS: dict[str, Check] = {
    "method": ("one of grid, random, bayes", lambda v: v in ("grid", "random", "bayes")),
    "parameters": ("a mapping of names to parameters", lambda v: isinstance(v, dict) and bool(v)),
    "metric": ("a mapping with a name", lambda v: isinstance(v, dict)),
    "run_cap": ("a whole number of at least 1", _is_count),
    "command": ("a list of words", lambda v: isinstance(v, list) and bool(v) and all(map(_is_word, v))),
    "program": TEXT,
    "name": TEXT,
    "description": TEXT,
    "project": TEXT,
    "entity": TEXT,
    "apiVersion": TEXT,
    "kind": ("sweep", lambda v: v == "sweep"),
    # Who draws the parameters: here it is this command, whichever of the two is written.
    "controller": ("{type: local} or {type: cloud}", lambda v: v in ({"type": "local"}, {"type": "cloud"})),
}
METRIC_KEYS: dict[str, Check] = {
    "name": TEXT,
    "goal": ("minimize or maximize", lambda v: v in ("minimize", "maximize")),
    "target": ("a finite number", lambda v: type(v) in (int, float) and _is_finite(v)),
    "impute": ("one of latest, best, worst", lambda v: v in ("latest", "best", "worst")),
    "impute_while_running": ("false: a run counts when it has ended", lambda v: v is False or v == "false"),
}
REFUSED = {
    "early_terminate": "every run is trained to its end; remove it here, or start agents of wandb",
    "scheduler": "the search is chosen by method alone",
    "metrics": "a search has one metric; write it under metric",
    "job": "jobs of wandb Launch are not started here; write a command",
    "image_uri": "jobs of wandb Launch are not started here; write a command",
}


def load_sweep(path: Path) -> Sweep:
    """A sweep file as ``wandb sweep`` takes it.

    Raises:
        ConfigError: one line with the file, the key and what it must be.
    """
    try:
        return read_sweep(_read(path), path.stem)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"it cannot be read ({reason[:200]})") from None
    if not isinstance(tree, dict):
        kind = "empty" if tree is None else f"a {type(tree).__name__}"
        raise ConfigError(f"it is {kind} and no sweep; a sweep is a mapping with method and parameters")
    return tree


def read_sweep(tree: dict[str, Any], title: str) -> Sweep:
    """A sweep from what its file says.

    Raises:
        ConfigError: one line with the key and what it must be.
    """
    try:
        return _sweep(tree, title)
    except ConfigError as error:  # keys may be of any text
        raise ConfigError(" ".join(str(error).split())) from None


def _sweep(tree: dict[str, Any], title: str) -> Sweep:
    for key, reason in REFUSED.items():
        if key in tree:
            raise ConfigError(f"{key}: not supported: {reason}")
    check_keys(tree, KEYS, "", ("method", "parameters"))
    if "metric" in tree:
        check_keys(tree["metric"], METRIC_KEYS, "metric.", ("name",))
    if tree["method"] == "bayes" and "metric" not in tree:
        raise ConfigError("metric: missing, method bayes needs to know what it looks for")
    if "command" not in tree and tree.get("program", "gapless") != "gapless":
        raise ConfigError(f"command: missing, and program {tree['program']!r} is not gapless")
    rest = {key: tree.get(key) for key in ("program", "run_cap", "project", "entity")}
    return Sweep(
        method=tree["method"],
        parameters=read_parameters(tree["parameters"], tree["method"] == "grid"),
        title=tree.get("name", title),
        metric=Metric(**tree["metric"]) if "metric" in tree else None,
        command=tuple(map(str, tree["command"])) if "command" in tree else None,
        **rest,
    )


def check_keys(tree: Mapping[Any, Any], known: Mapping[str, Check], prefix: str, required: tuple[str, ...]) -> None:
    """Raise ConfigError for the first key that is unknown, missing, or has a value that does not work."""
    for key, value in tree.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            raise ConfigError(f"{prefix}{key}: unknown key" + (f", did you mean {prefix}{close[0]}?" if close else ""))
        rule, holds = known[key]
        refuse(holds(value), f"{prefix}{key}", value, rule)
    for key in required:
        if key not in tree:
            raise ConfigError(f"{prefix}{key}: missing, it must be {known[key][0]}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond floats
        return False


def _is_word(value: Any) -> bool:
    return isinstance(value, str | int | float) and is_plain(value)
