"""Pairs to batches: captions picked, images decoded and transformed, samples put together."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gapless.data.images import LONG_CAPTION, BadSampleError, decode_image
from gapless.data.pairs import Pair, PairSource
from gapless.data.tokens import too_long

Transform = Callable[[Tensor], Tensor]
Tokenize = Callable[[list[str]], Tensor]
Towers = Literal["image-text", "image-image", "text-text"]
"""What the two sides of a batch are."""


class Sample(NamedTuple):
    """One decoded pair."""

    position: int
    image: Tensor
    caption: str
    converted: list[str]
    identity: tuple[int, int]
    """Of its image and of its caption: what is equal has equal numbers."""
    second: Tensor
    """Its other picture; the same one where it has no other."""


class BadSample(NamedTuple):
    """A pair that was left out, and why."""

    key: str
    reason: str
    detail: str


def describe_bad(bad: Sequence[BadSample]) -> str:
    """How many samples are bad, for which reasons, and the first three of them."""
    reasons = ", ".join(f"{number} {reason}" for reason, number in Counter(s.reason for s in bad).most_common())
    first = "; ".join(f"{sample.key}: {sample.detail}" for sample in bad[:3])
    return f"{len(bad)} bad samples ({reasons}), first: {first}" if bad else "0 bad samples"


class Batch(NamedTuple):
    """The usable samples of one process's part of a global batch (n may be 0)."""

    first: Tensor
    """What the first tower sees: pictures, uint8 (n, 3, H, W), or captions of text-text towers, int64 (n, L)."""
    second: Tensor
    """What the second tower sees: captions, int64 (n, L), or other pictures of image-image towers."""
    indices: Tensor
    """int64 (n,): positions in the dataset."""
    bad: list[BadSample]
    """Samples that were left out."""
    converted: dict[str, int]
    """How many samples were changed, by reason."""
    identities: Tensor
    """int64 (n, 2), of the images and captions: what is equal has equal numbers."""
    first_cut: str = ""
    """The first caption that is longer than the model's context and was cut; converted counts them."""

    @property
    def rows(self) -> int:
        """n."""
        return len(self.first)


def pick_caption(pair: Pair, rule: str, seed: str) -> str:
    """The caption that a rule picks: the first or a random one that is not blank, or the K-th of all (index:K).

    Raises:
        BadSampleError: it is missing or blank.
    """
    if rule in ("first", "random"):
        captions: Sequence[str] = spoken(pair.captions)
        position = random.Random(seed).randrange(len(captions)) if rule == "random" and captions else 0
    else:
        captions, position = pair.captions, int(rule.partition(":")[2])
    if position >= len(captions) or not captions[position].strip():
        raise BadSampleError("no_caption", f"caption {position} of {len(pair.captions)} is missing or empty")
    return captions[position]


def spoken(captions: Sequence[str]) -> list[str]:
    """The captions that are not blank."""
    return [caption for caption in captions if caption.strip()]


def fingerprint(content: bytes) -> int:
    """A number of 64 bits that different contents do not share."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big", signed=True)


class Decoded(NamedTuple):
    """A pair with its image decoded, before transforms."""

    pair: Pair
    image: Tensor
    converted: list[str]
    second: Tensor


def decode_pair(pair: Pair, max_pixels: int) -> Decoded:
    """Decode a pair's image, or both; raises BadSampleError."""
    image, converted = decode_image(pair.image, max_pixels)
    second = image if pair.second is None else decode_image(pair.second, max_pixels)[0]
    return Decoded(pair, image, converted, second)


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
        image = self._transform(decoded.image, seed)
        second = image if decoded.second is decoded.image else self._transform(decoded.second, seed)
        return Sample(index, image, caption, decoded.converted, identity, second)

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

    def __init__(self, tokenize: Tokenize, image_size: tuple[int, int], towers: Towers = "image-text") -> None:
        self.tokenize, self.image_size, self.towers = tokenize, image_size, towers

    def __call__(self, samples: Sequence[Sample | BadSample]) -> Batch:
        good = [s for s in samples if isinstance(s, Sample)]
        cut: list[str] = []
        if self.towers == "image-image":
            first, second = self._pictures([s.image for s in good]), self._pictures([s.second for s in good])
        else:
            captions = [s.caption for s in good]
            second = self._tokens(captions)
            cut = too_long(self.tokenize, captions, second)
            first = second if self.towers == "text-text" else self._pictures([s.image for s in good])
        return Batch(
            first=first,
            second=second,
            indices=torch.tensor([s.position for s in good], dtype=torch.long),
            bad=[s for s in samples if isinstance(s, BadSample)],
            converted=dict(Counter([*(reason for s in good for reason in s.converted), *(LONG_CAPTION for _ in cut)])),
            identities=torch.tensor([s.identity for s in good], dtype=torch.long).reshape(-1, 2),
            first_cut=cut[0][:80] if cut else "",
        )

    def _pictures(self, pictures: list[Tensor]) -> Tensor:
        return torch.stack(pictures) if pictures else torch.zeros((0, 3, *self.image_size), dtype=torch.uint8)

    def _tokens(self, captions: list[str]) -> Tensor:
        return self.tokenize(captions) if captions else torch.zeros((0, 1), dtype=torch.long)
