"""What a plan asks for: whether it can work, and which of its settings a result has to carry."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gapless.config import Config, DataConfig, EvalPlan, check_types, flatten
from gapless.config.rules import Rule, check_config
from gapless.data.labelled import PAPER_SETS
from gapless.errors import ConfigError
from gapless.eval.results import Result

PLACES = ("path", "val_path", "karpathy")
"""Keys of the data that say where they lie."""
OF_BATCHES = (
    *("source", "captions", "val_captions", "batch_size", "drop_last", "workers", "cache_images", "shuffle_window"),
    *("shuffle_buffer", "epoch_size", "augmentation", "max_pixels", "max_bad_fraction", "timeout", "allow_pipe"),
)
"""Keys of the data that do not decide which pairs there are; the source is the name of the data set."""
ONE_SPLIT = ("val", "aokvqa", "winoground")
"""Data sets of a single split, as those of sugar_crepe/."""


def check_plan(plan: EvalPlan) -> None:
    """Raise ConfigError with the first key whose value cannot work, before any data or weights are read."""
    check_types(plan)
    rules: list[Rule] = [
        ("datasets", bool(plan.datasets), "a list of data sets"),
        ("tasks", bool(plan.tasks), "a list of tasks"),
        ("lambdas", bool(plan.lambdas), "a list of numbers"),
    ]
    for key, holds, wanted in rules:
        if not holds:
            raise ConfigError(f"{key}: {getattr(plan, key)!r} does not work, it must be {wanted}")
    for name in plan.datasets:
        if plan.split and (name in ONE_SPLIT or name.startswith("sugar_crepe/")):
            raise ConfigError(f"split: {name} has one split only, not {plan.split!r}")
        if name == "simat" and plan.split not in (None, "dev", "test"):
            raise ConfigError(f"split: simat has the splits dev and test, not {plan.split!r}")
    if plan.heads is not None and "simat" not in plan.datasets:
        raise ConfigError(f"heads: {plan.heads} is for simat only, which is not among the datasets")
    if "pairs" in plan.datasets:
        check_config(Config(data=plan.data))


def dataset_names(plan: EvalPlan) -> list[str]:
    """The data sets of a plan, each once, with those that a name stands for."""
    return list(dict.fromkeys(each for name in plan.datasets for each in (PAPER_SETS if name == "paper" else (name,))))


def with_settings(result: Result, plan: EvalPlan, *keys: str) -> Result:
    """The result with those of some keys of its plan that are not the defaults."""
    default = EvalPlan()
    given = {key: getattr(plan, key) for key in keys}
    result.settings |= {key: value for key, value in given.items() if value != getattr(default, key)}
    return result


def pairs_settings(data: DataConfig) -> dict[str, Any]:
    """Which pairs of a source there are, where that is not the default."""
    given, default = flatten(asdict(data)), flatten(asdict(DataConfig()))
    known = {key for key in default if not key.startswith((*OF_BATCHES, *PLACES))}
    return {f"data.{key}": given[key] for key in sorted(known) if given[key] != default[key]}


def pairs_place(data: DataConfig) -> str:
    """Where pairs lie, the same however it was spelled."""
    return ", ".join(absolute(str(getattr(data, key))) for key in PLACES if getattr(data, key))


def absolute(place: str) -> str:
    """A path without links, or several joined by '::'; addresses as they are."""

    def resolved(part: str) -> str:
        return part if "://" in part or part.startswith("pipe:") else os.path.realpath(Path(part).expanduser())

    return "::".join(map(resolved, place.split("::")))
