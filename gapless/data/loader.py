"""Sources to batches: which samples make up global batch k, and which of them this process decodes."""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from gapless.config import DataConfig
from gapless.data.addresses import expand_shards, is_streamed
from gapless.data.manifest import remote_records
from gapless.data.place import Place
from gapless.data.samples import Batch, Collate, PairDataset, SampleMaker, Tokenize, Towers
from gapless.data.sources import build_source
from gapless.data.stream import ShardReader, StreamDataset
from gapless.data.transforms import build_eval_transform, build_train_transform, image_size
from gapless.data.workers import Loader
from gapless.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


class TrainData(Protocol):
    """An endless sequence of global batches, of which this process can make its part of any stretch."""

    num_samples: int
    """Pairs in an epoch, over all processes."""
    steps_per_epoch: int

    def batches(self, start: int, stop: int) -> Iterable[Batch]:
        """This process's part of global batches start to stop - 1."""

    def fingerprint(self) -> str:
        """By what the pairs are known wherever they lie; of remote shards where they lie."""


class EvalData(Protocol):
    """Every pair once, over all processes."""

    num_samples: int
    """Pairs of all processes together; -1 if only reading tells."""

    def batches(self) -> Iterable[Batch]: ...

    def blank(self) -> Batch:
        """A batch without rows."""

    def fingerprint(self) -> str:
        """By what the pairs are known wherever they lie; of remote shards where they lie."""

    def key(self, position: int) -> str:
        """Name of a position in Batch.indices."""


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
    listed = list(members)
    names = [listed[i] for i in torch.randperm(len(listed), generator=generator).tolist()]
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
        full, rest = divmod(self.num_samples, self.batch_size)
        # A single pair has no negatives: such a rest is always dropped.
        self.steps_per_epoch = full + (0 if self.drop_last or rest < 2 else 1)
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"data.batch_size: {self.batch_size} is larger than the {self.num_samples} training pairs"
            )

    def batches(self, start: int, stop: int) -> Iterable[Batch]:
        sampler = GlobalBatchSampler(self.dataset, self, start, stop)
        return _loader(self.dataset, self.workers, batch_sampler=sampler, collate_fn=self.collate)

    def fingerprint(self) -> str:
        return self.dataset.source.fingerprint()


@dataclass
class MapEvalData:
    """Evaluation batches of a source with positions."""

    dataset: PairDataset
    collate: Collate
    batch_size: int
    workers: int
    place: Place

    def __post_init__(self) -> None:
        self.num_samples = len(self.dataset)

    def key(self, position: int) -> str:
        return self.dataset.source.key(position)

    def blank(self) -> Batch:
        return self.collate([])

    def batches(self) -> Iterable[Batch]:
        mine = range(self.num_samples)[self.place.chunk(self.num_samples)]
        count = -(-self.num_samples // (self.place.world * self.batch_size))
        parts = [[(0, i) for i in mine[k * self.batch_size : (k + 1) * self.batch_size]] for k in range(count)]
        return _loader(self.dataset, self.workers, batch_sampler=parts, collate_fn=self.collate)

    def fingerprint(self) -> str:
        return self.dataset.source.fingerprint()


def _loader(dataset: Any, workers: int, **arguments: Any) -> Iterable[Batch]:
    return Loader(dataset, workers, pin_memory=torch.cuda.is_available(), **arguments)


@dataclass
class StreamTrainData:
    """Training batches of remote shards."""

    stream: StreamDataset
    num_samples: int
    steps_per_epoch: int
    workers: int

    def batches(self, start: int, stop: int) -> Iterable[Batch]:
        return _loader(self.stream.between(start, stop, self.steps_per_epoch), self.workers, batch_size=None)

    def fingerprint(self) -> str:
        return " ".join(self.stream.shards)


@dataclass
class StreamEvalData:
    """Evaluation batches of remote shards: each shard once, by one process."""

    stream: StreamDataset
    workers: int
    num_samples: int = -1

    def blank(self) -> Batch:
        return self.stream.collate([])

    def batches(self) -> Iterable[Batch]:
        return _loader(self.stream, self.workers, batch_size=None)

    def fingerprint(self) -> str:
        return " ".join(self.stream.shards)

    def key(self, position: int) -> str:
        raise LookupError("streamed samples have no positions")


def _streamed_shards(config: DataConfig, key: str, place: Place) -> tuple[list[str], ShardReader]:
    """The addresses under data.path or data.val_path, and who reads them."""
    shards = expand_shards(str(getattr(config, key.partition(".")[2])), config.allow_pipe, key)
    if len(shards) < place.world * max(1, config.workers):
        raise ConfigError(
            f"data.workers: {len(shards)} streamed shards cannot feed {place.world} processes with {config.workers} "
            f"workers; use at most {len(shards) // place.world} workers or write more shards"
        )
    for name in ("GOPEN_REWRITE", "USE_AIS_FOR"):
        if name in os.environ:
            logger.warning("%s is set and not followed: %s says where shards are read", name, key)
    records = remote_records(shards, config.timeout)
    typical = round(sum(r.samples for r in records.values()) / len(records)) if records else None
    if typical is None and config.epoch_size and key == "data.path":
        typical = -(-config.epoch_size // len(shards))
    return shards, ShardReader(records, typical, config.timeout, config.json_caption)


def _epoch_size(config: DataConfig, shards: list[str], reader: ShardReader) -> int:
    if config.epoch_size is None and len(reader.records) < len(set(shards)):
        raise DataError(f"data.epoch_size: set it, or put shards.json beside {shards[0]} (gapless prepare writes one)")
    return config.epoch_size or sum(reader.records[shard].samples for shard in shards)


def build_train_data(
    config: DataConfig,
    seed: int,
    preprocess: Mapping[str, Any],
    tokenize: Tokenize,
    place: Place,
    towers: Towers = "image-text",
) -> TrainData:
    """Training batches of this process.

    Args:
        config: the data part of the configuration.
        seed: of order, captions, augmentation and subsets.
        preprocess: the model's preprocess_cfg.
        tokenize: list of captions to int64 (n, L).
        place: this process among all.
        towers: what the two sides of a batch are.
    """
    augmentation = config.augmentation
    transform = build_train_transform(preprocess, augmentation) if augmentation else build_eval_transform(preprocess)
    make_sample = SampleMaker(transform, augmentation is not None, config.max_pixels)
    collate = Collate(tokenize, image_size(preprocess), towers)
    if config.source == "shards" and is_streamed(str(config.path)):
        if config.mismatched:
            raise ConfigError("data.mismatched: needs local shards, captions of remote ones cannot be exchanged")
        if config.captions == "all":
            raise ConfigError("data.captions: all needs local shards, use random for remote ones")
        shards, reader = _streamed_shards(config, "data.path", place)
        size = _epoch_size(config, shards, reader)
        if size < config.batch_size:
            raise ConfigError(f"data.batch_size: {config.batch_size} is larger than the epoch of {size} pairs")
        logger.info("streamed shards: their batches depend on the number of processes and workers")
        mine = place.chunk(config.batch_size)
        rows, buffer = mine.stop - mine.start, config.shuffle_buffer
        stream = StreamDataset(shards, reader, make_sample, collate, config.captions, rows, place, seed, buffer)
        return StreamTrainData(stream, size, size // config.batch_size, config.workers)
    dataset = PairDataset(build_source(config, "train", seed), make_sample, config.captions, seed, config.cache_images)
    return MapTrainData(
        dataset, collate, config.batch_size, config.drop_last, seed, config.shuffle_window, config.workers, place
    )


def build_eval_data(
    config: DataConfig,
    batch_size: int,
    preprocess: Mapping[str, Any],
    tokenize: Tokenize,
    place: Place,
    split: str = "val",
    seed: int = 0,
    towers: Towers = "image-text",
) -> EvalData:
    """Evaluation batches of this process: every pair of the split once, without augmentation.

    ``seed`` is that of the subset which data.train_samples takes of split train.
    """
    make_sample = SampleMaker(build_eval_transform(preprocess), max_pixels=config.max_pixels)
    collate = Collate(tokenize, image_size(preprocess), towers)
    path = config.val_path or config.path
    if config.source == "shards" and is_streamed(str(path), "data.val_path" if config.val_path else "data.path"):
        if not config.val_path:
            raise ConfigError("data.val_path: set it, nothing can be held out of streamed shards")
        shards, reader = _streamed_shards(config, "data.val_path", place)
        stream = StreamDataset(shards, reader, make_sample, collate, config.val_captions, batch_size, place)
        return StreamEvalData(stream, config.workers)
    dataset = PairDataset(
        build_source(config, split, seed), make_sample, config.val_captions, cache=config.cache_images
    )
    return MapEvalData(dataset, collate, batch_size, config.workers, place)
