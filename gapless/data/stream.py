"""Remote shards, streamed with webdataset. Nothing but bytes leaves the tar: members are decoded by us.

A stream is cut into steps like every other source, and step s is made by loader process s mod num_workers from the
shards dealt to it. So the position is restored by drawing, undecoded, what the interrupted run had drawn. The
composition of a batch depends on the number of processes and loader processes, which local shards avoid.
"""

import json
import logging
import random
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace

import webdataset as wds
from torch.utils.data import IterableDataset, get_worker_info

from gapless.data.files import IMAGE_EXTENSIONS, split_captions
from gapless.data.images import BadSampleError
from gapless.data.pairs import Pair
from gapless.data.place import Place
from gapless.data.samples import BadSample, Batch, Collate, Sample, SampleMaker, decode_pair
from gapless.errors import DataError

logger = logging.getLogger(__name__)

Raw = Pair | BadSample


def remote_size(shards: list[str]) -> int:
    """Samples in remote shards, from shards.json (gapless prepare) or sizes.json beside them.

    Raises:
        DataError: neither is there.
    """
    folder = shards[0].rpartition("/")[0]
    for name in ("shards.json", "sizes.json"):
        try:
            with urllib.request.urlopen(f"{folder}/{name}", timeout=30) as response:
                tree = json.load(response)
        except (OSError, urllib.error.URLError, ValueError):
            continue
        sizes = {s["name"]: s["samples"] for s in tree["shards"]} if name == "shards.json" else tree
        known = [sizes[s.rpartition("/")[2]] for s in shards if s.rpartition("/")[2] in sizes]
        if len(known) == len(shards):
            return sum(known)
    raise DataError(f"data.epoch_size: set it, or put shards.json beside {shards[0]} (gapless prepare writes one)")


def read_shard(url: str) -> Iterator[Raw]:
    """The pairs of one shard; a stream that breaks ends with one BadSample."""
    problems: list[str] = []

    def note(error: Exception) -> bool:
        problems.append(f"{type(error).__name__}: {error}")
        return True

    shard = wds.WebDataset(
        [url], shardshuffle=False, nodesplitter=None, workersplitter=None, handler=note, empty_check=False
    )
    try:
        for raw in shard:
            image = next((raw[e] for e in IMAGE_EXTENSIONS if e in raw), b"")
            yield Pair(raw["__key__"], image, split_captions(raw.get("txt", b"").decode("utf-8", errors="replace")))
    except OSError as error:  # curl's exit status arrives when the stream is closed
        note(error)
    if problems:
        logger.warning("%s: %s", url, problems[0])
        yield BadSample(url, "truncated", problems[0])


@dataclass(frozen=True)
class Share:
    """Which part of all loader streams this one is."""

    index: int
    count: int


@dataclass
class StreamDataset(IterableDataset[Batch]):
    """Batches of streamed pairs."""

    shards: list[str]
    """All addresses."""
    make_sample: SampleMaker
    collate: Collate
    caption_rule: str
    """first, random or index:K."""
    batch_size: int
    """Pairs of this process in a batch."""
    place: Place
    seed: int = 0
    """Of the order of shards and samples."""
    buffer: int = 0
    """Undecoded samples that are shuffled together."""
    start: int = 0
    stop: int = 0
    steps_per_epoch: int | None = None
    """Batches in an epoch; None reads every shard once, in order (evaluation)."""

    def between(self, start: int, stop: int, steps_per_epoch: int) -> "StreamDataset":
        """The training batches start to stop - 1."""
        return replace(self, start=start, stop=stop, steps_per_epoch=steps_per_epoch)

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        if self.steps_per_epoch is None:
            share = Share(self.place.rank * workers + worker, self.place.world * workers)
            yield from self._once(share)
            return
        # A resumed loader starts with its first process: the stream it continues is the one whose turn it is.
        turn = (worker + self.start) % workers
        share = Share(self.place.rank * workers + turn, self.place.world * workers)
        for epoch in range(self.start // self.steps_per_epoch, -(-self.stop // self.steps_per_epoch)):
            first, last = epoch * self.steps_per_epoch, min((epoch + 1) * self.steps_per_epoch, self.stop)
            mine = [step for step in range(first, last) if step % workers == turn]
            raws = self._endless(epoch, share)
            for step in mine:
                drawn = [next(raws) for _ in range(self.batch_size)]
                if step >= self.start:
                    yield self._batch(drawn, f"{self.seed}-{step}-{self.place.rank}")

    def _once(self, share: Share) -> Iterator[Batch]:
        drawn: list[Raw] = []
        for url in self.shards[share.index :: share.count]:
            for raw in read_shard(url):
                drawn.append(raw)
                if len(drawn) == self.batch_size:
                    yield self._batch(drawn, "")
                    drawn = []
        if drawn:
            yield self._batch(drawn, "")

    def _endless(self, epoch: int, share: Share) -> Iterator[Raw]:
        """This share's samples, again and again, in an order fixed by the seed, the epoch and the round."""
        for round_ in range(2**31):
            order = self.shards.copy()
            random.Random(f"{self.seed}-{epoch}").shuffle(order)
            mine = order[share.index :: share.count]
            chance = random.Random(f"{self.seed}-{epoch}-{round_}-{share.index}")
            chance.shuffle(mine)
            empty = True
            for raw in _shuffled((raw for url in mine for raw in read_shard(url)), self.buffer, chance):
                empty = False
                yield raw
            if empty:  # another round would find nothing either, for ever
                raise DataError(f"data.path: no samples in {', '.join(mine)}")

    def _batch(self, drawn: list[Raw], seed: str) -> Batch:
        return self.collate([self._sample(raw, f"{seed}-{i}") for i, raw in enumerate(drawn)])

    def _sample(self, raw: Raw, seed: str) -> Sample | BadSample:
        if isinstance(raw, BadSample):
            return raw
        try:
            if not raw.image:
                raise BadSampleError("missing_file", "no image member")
            decoded = decode_pair(raw, self.make_sample.max_pixels)
        except BadSampleError as error:
            return BadSample(raw.key, error.reason, str(error))
        return self.make_sample(-1, decoded, self.caption_rule, seed)


def _shuffled(raws: Iterator[Raw], size: int, chance: random.Random) -> Iterator[Raw]:
    """Shuffle within a buffer of undecoded samples."""
    buffer: list[Raw] = []
    for raw in raws:
        buffer.append(raw)
        if len(buffer) > size:
            position = chance.randrange(len(buffer))
            buffer[position], buffer[-1] = buffer[-1], buffer[position]
            yield buffer.pop()
    chance.shuffle(buffer)
    yield from buffer
