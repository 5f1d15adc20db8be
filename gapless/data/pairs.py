"""A pair is an image and one or more captions. Sources give pairs by position; a dataset makes samples of them."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gapless.data.images import BadSampleError, decode_image

Transform = Callable[[Tensor], Tensor]
Tokenize = Callable[[list[str]], Tensor]


class Pair(NamedTuple):
    """An encoded image and its captions."""

    key: str
    image: bytes
    captions: Sequence[str]


class PairSource(Protocol):
    """Pairs by position, read on demand."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Name of a pair, stable between runs."""

    def num_captions(self, index: int) -> int:
        """How many captions a pair has, without reading its image."""

    def captions(self, index: int) -> Sequence[str]:
        """The captions of a pair, without reading its image."""

    def shard(self, index: int) -> int:
        """Which file a pair lies in; pairs of one shard are near each other on disk."""

    def load(self, index: int) -> Pair:
        """Read a pair; raises BadSampleError."""

    def stamp(self) -> str:
        """What changes when the files do."""


def stamp_of_files(paths: Iterable[Path]) -> str:
    """Names, sizes and times of files."""
    found = ((path, path.stat()) for path in paths if path.exists())
    return str([(str(path), status.st_size, status.st_mtime_ns) for path, status in found])


@dataclass(frozen=True)
class FilePair:
    """An image file and its captions."""

    key: str
    path: Path
    captions: Sequence[str]


class FileSource:
    """Pairs whose images are files of their own."""

    def __init__(self, pairs: Sequence[FilePair]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def key(self, index: int) -> str:
        return self.pairs[index].key

    def num_captions(self, index: int) -> int:
        return len(self.pairs[index].captions)

    def captions(self, index: int) -> Sequence[str]:
        return self.pairs[index].captions

    def shard(self, index: int) -> int:
        return 0

    def load(self, index: int) -> Pair:
        pair = self.pairs[index]
        try:
            return Pair(pair.key, pair.path.read_bytes(), pair.captions)
        except OSError as error:
            raise BadSampleError("missing_file", f"{pair.path}: {error.strerror}") from None

    def stamp(self) -> str:
        return stamp_of_files(pair.path for pair in self.pairs)


class Subset:
    """Some pairs of a source, in the order given."""

    def __init__(self, source: PairSource, indices: Sequence[int]) -> None:
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        return self.source.key(self.indices[index])

    def num_captions(self, index: int) -> int:
        return self.source.num_captions(self.indices[index])

    def captions(self, index: int) -> Sequence[str]:
        return self.source.captions(self.indices[index])

    def shard(self, index: int) -> int:
        return self.source.shard(self.indices[index])

    def load(self, index: int) -> Pair:
        return self.source.load(self.indices[index])

    def stamp(self) -> str:
        return f"{list(self.indices)} of {self.source.stamp()}"


class Sample(NamedTuple):
    """One decoded pair."""

    position: int
    image: Tensor
    caption: str
    converted: list[str]
    identity: tuple[int, int]
    """Of its image and of its caption: what is equal has equal numbers."""


class BadSample(NamedTuple):
    """A pair that was left out, and why."""

    key: str
    reason: str
    detail: str


class Batch(NamedTuple):
    """The usable samples of one process's part of a global batch (n may be 0)."""

    images: Tensor
    """uint8 (n, 3, H, W)."""
    tokens: Tensor
    """int64 (n, L)."""
    indices: Tensor
    """int64 (n,): positions in the dataset."""
    bad: list[BadSample]
    """Samples that were left out."""
    converted: dict[str, int]
    """How many images were changed, by reason."""
    identities: Tensor
    """int64 (n, 2), of the images and captions: what is equal has equal numbers."""


def pick_caption(pair: Pair, rule: str, seed: str) -> str:
    """The caption that a rule (first, random, index:K) picks; raises BadSampleError if it is missing or empty."""
    captions = pair.captions
    if rule == "random":
        position = random.Random(seed).randrange(len(captions)) if captions else 0
    else:
        position = 0 if rule == "first" else int(rule.partition(":")[2])
    if position >= len(captions) or not captions[position].strip():
        raise BadSampleError("no_caption", f"caption {position} of {len(captions)} is missing or empty")
    return captions[position]


def fingerprint(content: bytes) -> int:
    """A number of 64 bits that different contents do not share."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big", signed=True)


class Decoded(NamedTuple):
    """A pair with its image decoded, before transforms."""

    pair: Pair
    image: Tensor
    converted: list[str]


def decode_pair(pair: Pair, max_pixels: int) -> Decoded:
    """Decode a pair's image; raises BadSampleError."""
    return Decoded(pair, *decode_image(pair.image, max_pixels))


@dataclass(frozen=True)
class SampleMaker:
    """Pick the caption of a decoded pair and transform its image, with random numbers from a seed alone."""

    transform: Transform
    """uint8 (3, H, W) to uint8 (3, S, S)."""
    random_transform: bool = False
    """Whether the transform draws random numbers."""
    max_pixels: int = 25_000_000
    """Largest image that is decoded."""

    def __call__(self, index: int, decoded: Decoded, rule: str, seed: str) -> Sample | BadSample:
        try:
            caption = pick_caption(decoded.pair, rule, seed)
        except BadSampleError as error:
            return BadSample(decoded.pair.key, error.reason, str(error))
        identity = fingerprint(decoded.pair.image), fingerprint(" ".join(caption.lower().split()).encode())
        return Sample(index, self._transform(decoded.image, seed), caption, decoded.converted, identity)

    def _transform(self, image: Tensor, seed: str) -> Tensor:
        if not self.random_transform:
            return self.transform(image)
        # The training process's own generator must not feel how many images it augments.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random.Random(seed).getrandbits(63))
            return self.transform(image)


class PairDataset(Dataset[Sample | BadSample]):
    """Decoded, transformed samples of a source.

    Items are addressed by (epoch, index), so that random choices depend on nothing else than them and the seed.

    Args:
        source: where the pairs are.
        make_sample: picks captions and transforms images.
        caption_rule: first, random, index:K, or all, which makes an item of every caption.
        seed: of random captions and augmentation.
        cache: keep decoded images in memory.
    """

    def __init__(
        self,
        source: PairSource,
        make_sample: SampleMaker,
        caption_rule: str = "first",
        seed: int = 0,
        cache: bool = False,
    ) -> None:
        self.source, self.make_sample, self.rule, self.seed = source, make_sample, caption_rule, seed
        self.items: list[tuple[int, str]] | None = None
        if caption_rule == "all":
            # A pair without captions keeps one item, so that it is counted as bad and does not vanish.
            counts = (max(1, source.num_captions(i)) for i in range(len(source)))
            self.items = [(i, f"index:{k}") for i, count in enumerate(counts) for k in range(count)]
        self.cache: dict[int, Decoded] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.source) if self.items is None else len(self.items)

    def shard(self, index: int) -> int:
        return self.source.shard(index if self.items is None else self.items[index][0])

    def __getitem__(self, item: tuple[int, int]) -> Sample | BadSample:
        epoch, index = item
        position, rule = (index, self.rule) if self.items is None else self.items[index]
        try:
            decoded = self._decode(position)
        except BadSampleError as error:
            return BadSample(self.source.key(position), error.reason, str(error))
        return self.make_sample(index, decoded, rule, f"{self.seed}-{epoch}-{index}")

    def _decode(self, position: int) -> Decoded:
        if self.cache is not None and position in self.cache:
            return self.cache[position]
        decoded = decode_pair(self.source.load(position), self.make_sample.max_pixels)
        if self.cache is not None:
            self.cache[position] = decoded
        return decoded


class Collate:
    """Samples to a Batch. A class and not a closure, so that spawned loader processes can receive it."""

    def __init__(self, tokenize: Tokenize, image_size: tuple[int, int]) -> None:
        self.tokenize, self.image_size = tokenize, image_size

    def __call__(self, samples: Sequence[Sample | BadSample]) -> Batch:
        good = [s for s in samples if isinstance(s, Sample)]
        return Batch(
            images=torch.stack([s.image for s in good])
            if good
            else torch.zeros((0, 3, *self.image_size), dtype=torch.uint8),
            tokens=self.tokenize([s.caption for s in good]) if good else torch.zeros((0, 1), dtype=torch.long),
            indices=torch.tensor([s.position for s in good], dtype=torch.long),
            bad=[s for s in samples if isinstance(s, BadSample)],
            converted=dict(Counter(reason for s in good for reason in s.converted)),
            identities=torch.tensor([s.identity for s in good], dtype=torch.long).reshape(-1, 2),
        )
