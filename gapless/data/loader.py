"""Sources to batches: which samples make up global batch k, and which of them this process decodes."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, get_args

import torch
from torch.utils.data import DataLoader

from gapless.config import DataConfig
from gapless.data.coco import coco_pairs
from gapless.data.emoji import Split, emoji_pairs
from gapless.data.files import csv_pairs, folder_pairs
from gapless.data.pairs import Batch, Collate, FileSource, PairDataset, PairSource, SampleMaker, Subset, Tokenize
from gapless.data.shards import ShardSource, expand_shards, is_remote
from gapless.data.stream import StreamDataset, remote_size
from gapless.data.transforms import build_eval_transform, build_train_transform, image_size
from gapless.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """This process among all."""

    rank: int = 0
    world: int = 1

    def chunk(self, n: int) -> slice:
        """This process's contiguous part of n rows; parts differ by at most one row."""
        return slice(n * self.rank // self.world, n * (self.rank + 1) // self.world)


class BatchData(Protocol):
    """Batches of this process, in the order of the global batches."""

    num_samples: int
    """Pairs of all processes together (in an epoch, for training); -1 if only reading tells."""
    keys: Sequence[str] | None
    """Name of each position in Batch.indices; None for streams."""


class EvalData(BatchData, Protocol):
    """Every pair once; all processes make equally many batches (some may be empty) unless streamed."""

    equal_batches: bool

    def batches(self) -> Iterable[Batch]: ...


class TrainData(BatchData, Protocol):
    """An endless sequence of global batches, of which any part can be made."""

    steps_per_epoch: int

    def batches(self, start: int, stop: int) -> Iterable[Batch]:
        """This process's part of global batches start to stop - 1."""


# --- which samples -----------------------------------------------------------------------------------------------


def epoch_order(shards: Sequence[int], seed: int, epoch: int, window: int) -> list[int]:
    """Order of the items in an epoch: shards shuffled, then items shuffled among each window of shards.

    Args:
        shards: shard of every item.
        seed: of the run.
        epoch: counted from 0.
        window: shards whose items are mixed.
    """
    generator = torch.Generator().manual_seed(int(hashlib.sha256(f"{seed}-{epoch}".encode()).hexdigest()[:15], 16))
    members: dict[int, list[int]] = {}
    for item, shard in enumerate(shards):
        members.setdefault(shard, []).append(item)
    names = [list(members)[i] for i in torch.randperm(len(members), generator=generator)]
    order: list[int] = []
    for first in range(0, len(names), window):
        pool = [item for name in names[first : first + window] for item in members[name]]
        order += [pool[i] for i in torch.randperm(len(pool), generator=generator).tolist()]
    return order


class GlobalBatchSampler:
    """(epoch, index) of this process's items in global batches start to stop - 1."""

    def __init__(self, dataset: PairDataset, data: "MapTrainData", start: int, stop: int) -> None:
        self.shards = [dataset.shard(i) for i in range(len(dataset))]
        self.data, self.start, self.stop = data, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        current, order = -1, []
        for step in range(self.start, self.stop):
            epoch, k = divmod(step, self.data.steps_per_epoch)
            if epoch != current:
                current, order = epoch, epoch_order(self.shards, self.data.seed, epoch, self.data.window)
            batch = order[k * self.data.batch_size : (k + 1) * self.data.batch_size]
            yield [(epoch, i) for i in batch[self.data.place.chunk(len(batch))]]


# --- map-style ---------------------------------------------------------------------------------------------------


@dataclass
class MapTrainData:
    """Training batches of a source with positions."""

    dataset: PairDataset
    collate: Collate
    batch_size: int
    drop_last: bool
    seed: int
    window: int
    workers: int
    place: Place

    def __post_init__(self) -> None:
        self.num_samples = len(self.dataset)
        self.keys = None
        full, rest = divmod(self.num_samples, self.batch_size)
        # A single pair has no negatives: such a rest is always dropped.
        self.steps_per_epoch = full + (0 if self.drop_last or rest < 2 else 1)
        if self.steps_per_epoch == 0:
            raise ConfigError(f"data.batch_size: {self.batch_size} is larger than the {self.num_samples} training pairs")

    def batches(self, start: int, stop: int) -> Iterable[Batch]:
        sampler = GlobalBatchSampler(self.dataset, self, start, stop)
        return _loader(self.dataset, self.workers, batch_sampler=sampler, collate_fn=self.collate)


@dataclass
class MapEvalData:
    """Evaluation batches of a source with positions."""

    dataset: PairDataset
    collate: Collate
    batch_size: int
    workers: int
    place: Place
    equal_batches: bool = True

    def __post_init__(self) -> None:
        self.num_samples = len(self.dataset)
        self.keys = [self.dataset.source.key(i) for i in range(self.num_samples)]

    def batches(self) -> Iterable[Batch]:
        mine = range(self.num_samples)[self.place.chunk(self.num_samples)]
        count = -(-self.num_samples // (self.place.world * self.batch_size))
        parts = [[(0, i) for i in mine[k * self.batch_size : (k + 1) * self.batch_size]] for k in range(count)]
        return _loader(self.dataset, self.workers, batch_sampler=parts, collate_fn=self.collate)


def _loader(dataset: Any, workers: int, **arguments: Any) -> Iterable[Batch]:
    # With a generator of its own the loader leaves the global one alone, which a resumed run relies on.
    generator = torch.Generator().manual_seed(0)
    loader: Iterable[Batch] = DataLoader(
        dataset, num_workers=workers, generator=generator, pin_memory=torch.cuda.is_available(), **arguments
    )
    return loader


# --- streams -----------------------------------------------------------------------------------------------------


@dataclass
class StreamData:
    """Batches of remote shards, for training (with steps) or evaluation (every shard once)."""

    config: DataConfig
    shards: list[str]
    make_sample: SampleMaker
    collate: Collate
    caption_rule: str
    batch_size: int
    seed: int
    place: Place
    equal_batches: bool = False

    def __post_init__(self) -> None:
        self.keys = None
        self.num_samples = -1
        streams = self.place.world * max(1, self.config.workers)
        if len(self.shards) < streams:
            raise ConfigError(
                f"data.workers: {len(self.shards)} remote shards cannot feed {self.place.world} processes with "
                f"{self.config.workers} workers; use at most {len(self.shards) // self.place.world} or write more shards"
            )

    def size_epoch(self) -> None:
        """Fix the length of a training epoch."""
        self.num_samples = self.config.epoch_size or remote_size(self.shards)
        self.steps_per_epoch = self.num_samples // self.batch_size
        if self.steps_per_epoch == 0:
            raise ConfigError(f"data.batch_size: {self.batch_size} is larger than the epoch of {self.num_samples} pairs")
        logger.info("remote shards: batches depend on the number of processes and workers; use local shards to avoid it")

    def batches(self, start: int | None = None, stop: int = 0) -> Iterable[Batch]:
        training = start is not None
        mine = self.place.chunk(self.batch_size)
        stream = StreamDataset(
            self.shards,
            self.make_sample,
            self.collate,
            self.caption_rule,
            batch_size=mine.stop - mine.start if training else self.batch_size,
            rank=self.place.rank,
            world=self.place.world,
            seed=self.seed,
            buffer=self.config.shuffle_buffer if training else 0,
            steps_per_epoch=self.steps_per_epoch if training else None,
            start=start or 0,
            stop=stop,
        )
        return _loader(stream, self.config.workers, batch_size=None)


# --- from a config -----------------------------------------------------------------------------------------------


def build_source(config: DataConfig, split: str, seed: int = 0) -> PairSource:
    """The pairs of a split (train, val; test where the source has one).

    Raises:
        DataError: missing or malformed data; a split that the source does not have.
    """
    if config.source == "emoji":
        if split not in get_args(Split):
            raise DataError(f"emoji has the splits train, val and test, not {split!r}")
        source: PairSource = FileSource(emoji_pairs(cast(Split, split)))
    elif config.source == "coco":
        source = FileSource(coco_pairs(Path(str(config.path)), split, Path(config.karpathy) if config.karpathy else None))
    else:
        source = _held_out(config, split)
    limit = config.train_samples if split == "train" else config.val_samples
    if limit is None or limit >= len(source):
        return source
    if split != "train":
        return Subset(source, range(limit))
    chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:limit]
    return Subset(source, chosen.sort().values.tolist())


def _held_out(config: DataConfig, split: str) -> PairSource:
    """A split of a source that has none of its own: val_path, or a share of path by a hash of the key."""
    if split not in ("train", "val"):
        raise DataError(f"{config.source} has the splits train and val, not {split!r}")
    path = config.val_path if split == "val" and config.val_path else config.path
    source: PairSource
    if config.source == "shards":
        source = ShardSource(expand_shards(str(path), config.allow_pipe))
    elif config.source == "folder":
        source = FileSource(folder_pairs(Path(str(path))))
    else:
        source = FileSource(csv_pairs(Path(str(path)), config.csv_image, config.csv_caption, config.csv_separator))
    if config.val_path:
        return source
    held = [_hash_share(source.key(i)) < config.val_fraction for i in range(len(source))]
    return Subset(source, [i for i, out in enumerate(held) if out == (split == "val")])


def _hash_share(key: str) -> float:
    return int(hashlib.sha256(key.encode()).hexdigest()[:13], 16) / 16**13


def build_train_data(
    config: DataConfig, seed: int, preprocess: Mapping[str, Any], tokenize: Tokenize, place: Place
) -> TrainData:
    """Training batches of this process.

    Args:
        config: the data part of the configuration.
        seed: of order, captions, augmentation and subsets.
        preprocess: the model's preprocess_cfg.
        tokenize: list of captions to int64 (n, L).
        place: this process among all.
    """
    augmentation = config.augmentation
    transform = build_train_transform(preprocess, augmentation) if augmentation else build_eval_transform(preprocess)
    make_sample = SampleMaker(transform, augmentation is not None, config.max_pixels)
    collate = Collate(tokenize, image_size(preprocess))
    if config.source == "shards" and is_remote(str(config.path)):
        if config.captions == "all":
            raise ConfigError("data.captions: all needs local shards, use random for remote ones")
        shards = expand_shards(str(config.path), config.allow_pipe)
        stream = StreamData(config, shards, make_sample, collate, config.captions, config.batch_size, seed, place)
        stream.size_epoch()
        return stream
    dataset = PairDataset(build_source(config, "train", seed), make_sample, config.captions, seed, config.cache_images)
    return MapTrainData(
        dataset, collate, config.batch_size, config.drop_last, seed, config.shuffle_window, config.workers, place
    )


def build_eval_data(
    config: DataConfig, batch_size: int, preprocess: Mapping[str, Any], tokenize: Tokenize, place: Place, split: str = "val"
) -> EvalData:
    """Evaluation batches of this process: every pair of the split once, without augmentation."""
    make_sample = SampleMaker(build_eval_transform(preprocess), max_pixels=config.max_pixels)
    collate = Collate(tokenize, image_size(preprocess))
    path = config.val_path or config.path
    if config.source == "shards" and is_remote(str(path)):
        if not config.val_path:
            raise ConfigError("data.val_path: set it, nothing can be held out of remote shards")
        shards = expand_shards(str(path), config.allow_pipe)
        return StreamData(config, shards, make_sample, collate, config.val_captions, batch_size, 0, place)
    dataset = PairDataset(build_source(config, split), make_sample, config.val_captions, cache=config.cache_images)
    return MapEvalData(dataset, collate, batch_size, config.workers, place)
