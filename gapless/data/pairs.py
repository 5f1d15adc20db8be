"""A pair is an image and one or more captions. Sources give pairs by position."""

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from gapless.data.images import read_picture

SIZED = 1000
"""Pictures, at least, whose sizes enter a fingerprint: enough to know them by, few enough for a remote disk."""


class Pair(NamedTuple):
    """An encoded image and its captions."""

    key: str
    image: bytes
    captions: Sequence[str]
    second: bytes | None = None
    """Another picture of the same, where the source has one."""


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

    def fingerprint(self) -> str:
        """By what the pairs are known wherever they lie."""


def stamp_of_files(paths: Iterable[Path]) -> str:
    """Names, sizes and times of files."""
    existing = ((path, path.stat()) for path in paths if path.exists())
    return str([(str(path), status.st_size, status.st_mtime_ns) for path, status in existing])


def digest_of(items: Iterable[object]) -> str:
    """Sixteen characters that two sequences share only if they are equal."""
    digest = hashlib.blake2b(digest_size=8)
    for item in items:
        digest.update(f"{item}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


@dataclass(frozen=True)
class FilePair:
    """An image file and its captions."""

    key: str
    path: Path
    captions: Sequence[str]
    second: Callable[[], bytes] | None = None
    """Reads another picture of the same."""
    drawing: Callable[[], bytes] | None = None
    """Reads the image, where it is another one than the file's."""


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
        image = pair.drawing() if pair.drawing else read_picture(pair.path)
        return Pair(pair.key, image, pair.captions, pair.second() if pair.second else None)

    def stamp(self) -> str:
        drawn = sum(pair.drawing is not None for pair in self.pairs)
        return stamp_of_files(pair.path for pair in self.pairs) + (f" {drawn} drawn otherwise" if drawn else "")

    def fingerprint(self) -> str:
        some = self.pairs[:: max(1, len(self.pairs) // SIZED)]
        sizes = [pair.path.stat().st_size for pair in some if pair.path.is_file()]
        return digest_of([*((pair.key, *pair.captions) for pair in self.pairs), sizes])


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

    def fingerprint(self) -> str:
        return digest_of([self.source.fingerprint(), *self.indices])


class Mismatched:
    """A source some of whose pairs have exchanged their captions, for a control experiment.

    Args:
        source: the pairs as they belong.
        share: of the pairs, which are turned by one place in a random order: none of them keeps its own.
        seed: of the choice and the order.
    """

    def __init__(self, source: PairSource, share: float, seed: int) -> None:
        self.source = source
        chosen = random.Random(f"mismatched-{seed}").sample(range(len(source)), round(share * len(source)))
        self.captions_of = dict(zip(chosen, chosen[1:] + chosen[:1], strict=True))

    def __len__(self) -> int:
        return len(self.source)

    def key(self, index: int) -> str:
        return self.source.key(index)

    def num_captions(self, index: int) -> int:
        return self.source.num_captions(self.captions_of.get(index, index))

    def captions(self, index: int) -> Sequence[str]:
        return self.source.captions(self.captions_of.get(index, index))

    def shard(self, index: int) -> int:
        return self.source.shard(index)

    def load(self, index: int) -> Pair:
        return self.source.load(index)._replace(captions=self.captions(index))

    def stamp(self) -> str:
        return f"{sorted(self.captions_of.items())} of {self.source.stamp()}"

    def fingerprint(self) -> str:
        return digest_of([self.source.fingerprint(), *sorted(self.captions_of.items())])
