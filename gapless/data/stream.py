"""Shards that are streamed. Nothing but bytes leaves the tar: members are decoded by us.

A stream is cut into steps like every other source, and step s is made by loader process s mod num_workers from the
shards dealt to it. So the position is restored by drawing, undecoded, what the interrupted run had drawn. The
composition of a batch depends on the number of processes and loader processes, which local shards avoid.
"""

import logging
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import repeat

from torch.utils.data import IterableDataset, get_worker_info

from gapless.data.images import BadSampleError
from gapless.data.manifest import ShardRecord
from gapless.data.members import IMAGE_ORDER, SMALL, TarSample, split_name, tar_samples
from gapless.data.pairs import Pair
from gapless.data.place import Place
from gapless.data.remote import LATE, open_shard
from gapless.data.samples import BadSample, Batch, Collate, Sample, SampleMaker, decode_pair
from gapless.data.tar import READ_ERRORS, Damage, read_tar, reason_of
from gapless.errors import DataError

logger = logging.getLogger(__name__)

Raw = Pair | BadSample
MAX_SILENT = 3
"""Shards in a row that may be given up because nothing came; this many are an error."""


@dataclass
class ShardReader:
    """Reads streamed shards, and knows how many samples each should give."""

    records: Mapping[str, ShardRecord] = field(default_factory=dict)
    """What shards.json or sizes.json says, by address."""
    typical: int | None = None
    """Samples of a shard of which nothing is known; None if that is not known either."""
    timeout: float = 60.0
    """Seconds that a server may be silent."""
    json_caption: str = "caption"
    """Key of the captions in .json members."""
    silent: int = 0
    """Shards in a row that were given up because nothing came."""

    def expected(self, url: str) -> int | None:
        """How many samples a shard holds, None if nobody knows."""
        return self.records[url].samples if url in self.records else self.typical

    def __call__(self, url: str) -> Iterator[Raw]:
        """The pairs of one shard, and for each that is lost a BadSample."""
        given, problems = 0, list[str]()
        try:
            with open_shard(url, self.timeout) as file:
                for sample in tar_samples(read_tar(file, _is_read), together=True):
                    if isinstance(sample, Damage):
                        problems.append(sample.detail)
                    else:
                        given += 1
                        yield self._pair(sample)
        except READ_ERRORS as error:
            problems.append(reason_of(error))
        self._note_silence(url, problems)
        if url in self.records and given < self.records[url].samples and not problems:
            problems.append(f"it gave {given} samples, the file beside it says {self.records[url].samples}")
        if problems:
            expected = self.expected(url)
            lost = max(1, (expected or 0) - given)
            counted = f"{lost} samples count" if expected is not None else "the mean number of samples counts"
            logger.warning("%s: %s; %s as lost", url, problems[0], counted)
            yield from repeat(BadSample(url, "truncated" if given else "missing_file", problems[0]), lost)

    def _note_silence(self, url: str, problems: list[str]) -> None:
        """Give up a server that would be waited for at each of its shards."""
        self.silent = self.silent + 1 if any(problem.endswith(LATE) for problem in problems) else 0
        if self.silent == MAX_SILENT:
            raise DataError(f"data.path: {url}: {problems[0]}, and so it was with the {MAX_SILENT - 1} shards before")

    def _pair(self, sample: TarSample) -> Raw:
        captions = sample.captions(self.json_caption)
        if sample.image is None:
            return BadSample(sample.key, "missing_file", f"no picture among {sample.describe(self.json_caption)}")
        if not captions:
            return BadSample(sample.key, "no_caption", f"no caption in {sample.describe(self.json_caption)}")
        return Pair(sample.key, sample.image.content, captions)


def _is_read(name: str) -> bool:
    return split_name(name)[1] in (*SMALL, *IMAGE_ORDER)


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
    read: ShardReader
    """Gives the pairs of an address."""
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
        mine, drawn = self.shards[share.index :: share.count], list[Raw]()
        for raw in self._with_average(mine):
            drawn.append(raw)
            if len(drawn) == self.batch_size:
                yield self._batch(drawn, "")
                drawn = []
        if drawn:
            yield self._batch(drawn, "")

    def _with_average(self, urls: list[str]) -> Iterator[Raw]:
        """Every shard once; one that is lost counts as the others held on average where nothing else is known."""
        lost: list[tuple[BadSample, int]] = []
        counts: list[int] = []
        for url in urls:
            counts.append(0)
            for raw in self.read(url):
                if isinstance(raw, BadSample) and raw.key == url and self.read.expected(url) is None:
                    lost.append((raw, counts.pop()))
                    break
                yield raw
                counts[-1] += 1
        if lost and not any(counts):
            raise DataError(f"data.val_path: no whole shard in {', '.join(urls)} ({lost[0][0].detail})")
        for bad, given in lost:
            yield from repeat(bad, max(1, round(sum(counts) / len(counts)) - given))

    def _endless(self, epoch: int, share: Share) -> Iterator[Raw]:
        """This share's samples, again and again, in an order fixed by the seed, the epoch and the round."""
        for round_ in range(2**31):
            order = self.shards.copy()
            random.Random(f"{self.seed}-{epoch}").shuffle(order)
            mine = order[share.index :: share.count]
            chance = random.Random(f"{self.seed}-{epoch}-{round_}-{share.index}")
            chance.shuffle(mine)
            empty = True
            for raw in _shuffled((raw for url in mine for raw in self.read(url)), self.buffer, chance):
                empty = empty and isinstance(raw, BadSample)
                yield raw
            if empty:  # another round would find nothing either, for ever
                raise DataError(f"data.path: no samples in {', '.join(mine)}")

    def _batch(self, drawn: list[Raw], seed: str) -> Batch:
        return self.collate([self._sample(raw, f"{seed}-{i}") for i, raw in enumerate(drawn)])

    def _sample(self, raw: Raw, seed: str) -> Sample | BadSample:
        if isinstance(raw, BadSample):
            return raw
        try:
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
