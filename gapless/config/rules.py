"""Which values of a configuration can work: each in the range that its type names, and all of them together."""

import re
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from gapless.config import Config, LossConfig, ModelConfig, Ramp, check_types
from gapless.config.sources import SOURCES
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
        ("data.path", bool(c.data.path) or not SOURCES[c.data.source].needs_path, f"set for source {c.data.source}"),
        ("data.second_image", c.data.second_image == "same" or c.data.source == "emoji", "same for other sources"),
        ("data.second_image", c.data.second_image == "same" or c.model.towers == "image-image",
         "same unless model.towers is image-image"),
        *_of_augmentation(c),
        *_of_model(c.model),
        *_of_terms(c.loss),
        ("eval.keep_embeddings", all(-1 <= e <= c.train.epochs for e in c.eval.keep_embeddings),
         "a list of epochs from 0 to train.epochs, or -1 for the last"),
        ("eval.split", c.eval.split != "test" or "test" in SOURCES[c.data.source].splits or bool(c.data.karpathy),
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
    for key, holds, works in (*rules, *of_every_run):
        if not holds:
            value = repr(attrgetter(key)(config))
            shown = value if len(value) <= 200 else f"{value[:197]}..."
            raise ConfigError(f"{key}: {shown} does not work, it must be {works}")


def _of_augmentation(config: Config) -> list[Rule]:
    augmentation = config.data.augmentation
    if augmentation is None:
        return []
    return [
        (f"data.augmentation.{key}", low <= high, "the lowest value, then the highest")
        for key, (low, high) in (("scale", augmentation.scale), ("ratio", augmentation.ratio))
    ]


def _of_model(model: ModelConfig) -> list[Rule]:
    temperature = model.temperature
    ends = (temperature["from"], temperature["to"]) if isinstance(temperature, dict) else (1.0, 1.0)
    return [
        ("model.architecture", bool(model.architecture) or model.name != "custom",
         "open_clip's model_cfg, since model.name is custom"),
        ("model.architecture", not model.architecture or model.name == "custom",
         f"null, since model.name is {model.name} and not custom"),
        ("model.temperature", min(ends) > 0, "positive at both ends"),
        ("model.temperature", _ends_after_start(temperature), f"a schedule {_span(temperature)}"),
        ("model.learnable_temperature", not (isinstance(temperature, dict) and model.learnable_temperature),
         "false where model.temperature is a schedule"),
        ("model.shared_tower", not model.shared_tower or model.towers != "image-text", "false for image-text"),
        ("model.lock_image", not (model.lock_image and model.is_twin), "false for two bare towers"),
        ("model.lock_text", not (model.lock_text and model.is_twin), "false for two bare towers"),
    ]  # fmt: skip


def _of_terms(loss: LossConfig) -> list[Rule]:
    return [
        ("loss.terms", _ends_after_start(weight), f"weights or schedules: {name} needs one {_span(weight)}")
        for name, weight in loss.terms.items()
    ]


def _ends_after_start(weight: float | Ramp | None) -> bool:
    """Whether a schedule ends after its start, as far as can be known without the number of steps."""
    if not isinstance(weight, dict):
        return True
    start, end = _start_and_end(weight)
    return start < end or start > 1 >= end


def _span(weight: float | Ramp | None) -> str:
    start, end = _start_and_end(weight) if isinstance(weight, dict) else (0.0, 1.0)
    return f"that ends after its start (start {start:g}, end {end:g})"


def _start_and_end(ramp: Ramp) -> tuple[float, float]:
    return ramp.get("start", 0.0), ramp.get("end", 1.0)


def _is_caption_rule(rule: str, words: tuple[str, ...] = ("first", "random", "all")) -> bool:
    return rule in words or re.fullmatch(r"index:\d+", rule) is not None
