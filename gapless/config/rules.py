"""Which values of a configuration can work: each in the range that its type names, and all of them together."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gapless.config import Config, Ramp, check_types, flatten
from gapless.errors import ConfigError

Rule = tuple[str, bool, str]
"""A key, whether its value works, and what would."""


def check_config(config: Config) -> None:
    """Raise ConfigError with the first key whose value cannot work, before any data or weights are read.

    The command line has checked ranges already; a configuration made in code is held to the same.
    """
    c = config
    check_types(config)
    rules: list[Rule] = [
        ("data.captions", _is_caption_rule(c.data.captions), "first, random, index:K or all"),
        ("data.val_captions", _is_caption_rule(c.data.val_captions, ("first",)), "first or index:K"),
        ("data.timeout", c.data.timeout < 1e6, "a number of seconds below 1e6"),
        ("data.path", c.data.source == "emoji" or bool(c.data.path), f"set for source {c.data.source}"),
        ("data.second_image", c.data.second_image == "same" or c.data.source == "emoji", "same for other sources"),
        ("data.second_image", c.data.second_image == "same" or c.model.towers == "image-image",
         "same unless model.towers is image-image"),
        *_of_augmentation(c),
        ("model.architecture", (c.model.name == "custom") == bool(c.model.architecture), "set for name=custom only"),
        ("model.temperature", _is_positive(c.model.temperature), "positive at both ends, from a start to a later end"),
        ("model.learnable_temperature", not (isinstance(c.model.temperature, dict) and c.model.learnable_temperature),
         "false where model.temperature is a schedule"),
        ("model.shared_tower", not c.model.shared_tower or c.model.towers != "image-text", "false for image-text"),
        ("model.lock_image", not (c.model.lock_image and c.model.is_twin), "false for two bare towers"),
        ("model.lock_text", not (c.model.lock_text and c.model.is_twin), "false for two bare towers"),
        ("loss.terms", all(_is_ramp(w) for w in c.loss.terms.values()), "weights whose schedules end after they start"),
        ("eval.keep_embeddings", all(-1 <= e <= c.train.epochs for e in c.eval.keep_embeddings),
         "a list of epochs from 0 to train.epochs, or -1 for the last"),
        ("eval.split", c.eval.split != "test" or c.data.source == "emoji" or bool(c.data.karpathy),
         "val or train for data without a test split"),
    ]  # fmt: skip
    refuse(config, rules)


def refuse(config: Any, rules: Sequence[Rule]) -> None:
    """Raise ConfigError with the first key of a run's configuration that breaks a rule of its own or of every run."""
    name = config.name
    of_every_run: list[Rule] = [
        ("name", re.fullmatch(r"[\w.{}+=@-]+", name) is not None and name.strip(".") != "",
         "a folder name of letters, digits and ._+=@-"),
        ("output", bool(config.output), "a folder"),
    ]  # fmt: skip
    for key, holds, wanted in (*rules, *of_every_run):
        if not holds:
            raise ConfigError(f"{key}: {flatten(asdict(config)).get(key)!r} does not work, it must be {wanted}")


def _of_augmentation(config: Config) -> list[Rule]:
    found = config.data.augmentation
    if found is None:
        return []
    return [
        (f"data.augmentation.{key}", low <= high, "the lowest value, then the highest")
        for key, (low, high) in (("scale", found.scale), ("ratio", found.ratio))
    ]


def _is_positive(value: float | Ramp | None) -> bool:
    return not isinstance(value, dict) or (value["from"] > 0 and value["to"] > 0 and _is_ramp(value))


def _is_ramp(value: float | Ramp) -> bool:
    """Whether a schedule ends after its start, as far as can be told without the number of steps."""
    if not isinstance(value, dict):
        return True
    start, end = value.get("start", 0.0), value.get("end", 1.0)
    return start < end or start > 1 >= end


def _is_caption_rule(rule: str, words: tuple[str, ...] = ("first", "random", "all")) -> bool:
    return rule in words or re.fullmatch(r"index:\d+", rule) is not None
