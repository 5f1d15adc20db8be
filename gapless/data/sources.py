"""From a configuration to the pairs of a split."""

import hashlib
import importlib
from collections.abc import Callable

import torch

from gapless.config import DataConfig
from gapless.config.sources import SOURCES
from gapless.data.addresses import expand_shards, is_streamed
from gapless.data.pairs import Mismatched, PairSource, Subset
from gapless.errors import DataError

Build = Callable[[DataConfig, str], PairSource]


def build_source(config: DataConfig, split: str, seed: int = 0) -> PairSource:
    """The pairs of a split (train, val; test where the source has one).

    Raises:
        DataError: missing or malformed data; a split that the source does not have.
    """
    record = SOURCES[config.source]
    module, _, function = record.function.partition(".")
    build: Build = getattr(importlib.import_module(f"gapless.data.{module}"), function)
    source = build(config, split) if record.splits else _held_out(config, split, build)
    limit = config.train_samples if split == "train" else config.val_samples
    if limit is not None and limit < len(source):
        chosen = torch.arange(limit)
        if split == "train":
            order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
            chosen = order[:limit].sort().values
        source = Subset(source, chosen.tolist())
    return Mismatched(source, config.mismatched, seed) if config.mismatched and split == "train" else source


def is_stream(config: DataConfig) -> bool:
    """Whether the training pairs are streamed from shards.

    Raises:
        DataError: an address of either split that may not be read.
    """
    if config.source != "shards":
        return False
    for key in ("path", "val_path"):
        if getattr(config, key):
            expand_shards(getattr(config, key), config.allow_pipe, f"data.{key}")
    return is_streamed(str(config.path))


def _held_out(config: DataConfig, split: str, build: Build) -> PairSource:
    """A split of a source that has none of its own: val_path, or a share of path by a hash of the key."""
    if split not in ("train", "val"):
        raise DataError(f"{config.source} has the splits train and val, not {split!r}")
    path = config.val_path if split == "val" and config.val_path else config.path
    source = build(config, str(path))
    if config.val_path:
        return source
    held = [_hash_share(source.key(i)) < config.val_fraction for i in range(len(source))]
    return Subset(source, [i for i, out in enumerate(held) if out == (split == "val")])


def _hash_share(key: str) -> float:
    return int(hashlib.sha256(key.encode()).hexdigest()[:13], 16) / 16**13
