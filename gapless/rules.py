"""Which values of a configuration can work."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gapless.config import Config, Ramp, flatten
from gapless.errors import ConfigError

Rule = tuple[str, bool, str]
"""A key, whether its value works, and what would."""


def check_config(config: Config) -> None:
    """Raise ConfigError with the first key whose value cannot work, before any data or weights are read."""
    c = config
    rules: list[Rule] = [
        ("data.batch_size", c.data.batch_size >= 2, "at least 2: every loss needs another pair"),
        ("data.captions", _is_caption_rule(c.data.captions), "first, random, index:K or all"),
        ("data.val_captions", _is_caption_rule(c.data.val_captions, ("first",)), "first or index:K"),
        ("data.val_fraction", 0 < c.data.val_fraction < 1, "between 0 and 1"),
        ("data.max_bad_fraction", 0 <= c.data.max_bad_fraction <= 1, "between 0 and 1"),
        ("data.max_pixels", c.data.max_pixels > 0, "positive"),
        ("data.workers", c.data.workers >= 0, "0 or more"),
        ("data.timeout", 0 < c.data.timeout < 1e6, "a number of seconds"),
        ("data.shuffle_window", c.data.shuffle_window >= 1, "at least 1"),
        ("data.shuffle_buffer", c.data.shuffle_buffer >= 0, "0 or more"),
        ("data.epoch_size", _positive(c.data.epoch_size), "positive or null"),
        ("data.train_samples", _positive(c.data.train_samples, 2), "at least 2, or null"),
        ("data.val_samples", _positive(c.data.val_samples, 2), "at least 2, or null"),
        ("data.path", c.data.source == "emoji" or bool(c.data.path), f"set for source {c.data.source}"),
        ("model.architecture", (c.model.name == "custom") == bool(c.model.architecture), "set for name=custom only"),
        ("model.embed_dim", _positive(c.model.embed_dim), "positive or null"),
        ("model.temperature", _positive_throughout(c.model.temperature), "positive or null"),
        ("model.learnable_temperature", not (isinstance(c.model.temperature, dict) and c.model.learnable_temperature),
         "false where model.temperature is a schedule"),
        ("data.mismatched", 0 <= c.data.mismatched <= 1, "between 0 and 1"),
        ("data.second_image", c.data.second_image == "same" or c.data.source == "emoji", "same for other sources"),
        ("data.second_image", c.data.second_image == "same" or c.model.towers == "image-image",
         "same unless model.towers is image-image"),
        ("model.shared_tower", not c.model.shared_tower or c.model.towers != "image-text", "false for image-text"),
        ("model.lock_image", not (c.model.lock_image and c.model.is_twin), "false for two bare towers"),
        ("model.lock_text", not (c.model.lock_text and c.model.is_twin), "false for two bare towers"),
        ("loss.uniform_t", c.loss.uniform_t > 0, "positive"),
        ("loss.align_alpha", c.loss.align_alpha > 0, "positive"),
        ("loss.hardness", c.loss.hardness >= 0, "0 or more"),
        ("loss.terms", all(_is_ramp(w) for w in c.loss.terms.values()), "weights whose schedules end after they start"),
        ("eval.every_epochs", c.eval.every_epochs >= 1, "at least 1"),
        ("eval.keep_embeddings", all(-1 <= e <= c.train.epochs for e in c.eval.keep_embeddings),
         "a list of epochs from 0 to train.epochs, or -1 for the last"),
        ("eval.split", c.eval.split != "test" or c.data.source == "emoji" or bool(c.data.karpathy),
         "val or train for data without a test split"),
        ("eval.batch_size", c.eval.batch_size >= 1, "at least 1"),
    ]  # fmt: skip
    refuse(config, rules)


def refuse(config: Any, rules: Sequence[Rule]) -> None:
    """Raise ConfigError with the first key of a run's configuration that breaks a rule of its own or of every run."""
    c = config
    of_every_run: list[Rule] = [
        ("name", bool(re.fullmatch(r"[\w.{}+=@-]+", c.name)), "a folder name of letters, digits and ._+=@-"),
        ("optim.lr", c.optim.lr >= 0, "0 or more"),
        ("optim.temperature_lr", c.optim.temperature_lr >= 0, "0 or more"),
        ("optim.betas", all(0 <= b < 1 for b in c.optim.betas), "two numbers in [0, 1)"),
        ("optim.warmup_steps", c.optim.warmup_steps >= 0, "0 or more"),
        ("optim.grad_clip", _positive(c.optim.grad_clip), "positive or null"),
        ("optim.ema_decay", c.optim.ema_decay is None or 0 < c.optim.ema_decay < 1, "between 0 and 1, or null"),
        ("train.epochs", c.train.epochs >= 1, "at least 1"),
        ("train.micro_batch_size", _positive(c.train.micro_batch_size), "positive or null"),
        ("train.log_every", c.train.log_every >= 1, "at least 1"),
        ("checkpoint.every_steps", _positive(c.checkpoint.every_steps), "positive or null"),
        ("checkpoint.every_minutes", _positive(c.checkpoint.every_minutes), "positive or null"),
        ("checkpoint.every_epochs", c.checkpoint.every_epochs >= 1, "at least 1"),
        ("checkpoint.keep_last", c.checkpoint.keep_last >= 1, "at least 1"),
        ("tracking.to", set(c.tracking.to) <= {"wandb", "tensorboard"}, "a list of wandb, tensorboard"),
    ]  # fmt: skip
    for key, holds, wanted in (*rules, *of_every_run):
        if not holds:
            raise ConfigError(f"{key}: {flatten(asdict(config)).get(key)!r} does not work, it must be {wanted}")


def _positive(value: float | None, least: float = 0) -> bool:
    return value is None or (value > 0 and value >= least)


def _positive_throughout(value: float | Ramp | None) -> bool:
    if isinstance(value, dict):
        return value["from"] > 0 and value["to"] > 0 and _is_ramp(value)
    return _positive(value)


def _is_ramp(value: float | Ramp) -> bool:
    """Whether a schedule ends after its start, as far as can be told without the number of steps."""
    if not isinstance(value, dict):
        return math.isfinite(value)
    start, end = value.get("start", 0.0), value.get("end", 1.0)
    return start >= 0 and end > 0 and (start < end or start > 1 >= end)


def _is_caption_rule(rule: str, words: tuple[str, ...] = ("first", "random", "all")) -> bool:
    return rule in words or re.fullmatch(r"index:\d+", rule) is not None
