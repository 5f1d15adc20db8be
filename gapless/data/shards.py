"""Local webdataset shards, read by position: indexed once, member offsets kept beside the tar file."""

import json
import logging
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from braceexpand import braceexpand
from rich.progress import track

from gapless.data.files import IMAGE_EXTENSIONS, split_captions
from gapless.data.images import BadSampleError
from gapless.data.pairs import Pair, stamp_of_files
from gapless.errors import DataError

logger = logging.getLogger(__name__)

INDEX_SUFFIX = ".index.json"
INDEX_VERSION = 2


@dataclass(frozen=True)
class Member:
    """Where a shard keeps one sample; offset and size are 0 where a part is missing."""

    key: str
    image: tuple[int, int] = (0, 0)
    text: tuple[int, int] = (0, 0)
    num_captions: int = 0
    label: int = -1
    """Class in the .cls member; -1 without one."""
    lost: bool = False
    """Stands for the end of a shard that breaks off: a sample that can only be counted."""


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a shard, and whether the file ends before its last member does."""

    members: list[Member]
    truncated: bool


def expand_shards(path: str, allow_pipe: bool = False) -> list[str]:
    """Shard addresses from brace ranges, '::'-joined lists and folders of .tar files.

    Raises:
        DataError: nothing matches, or a 'pipe:' address that was not allowed.
    """
    shards: list[str] = []
    for part in path.split("::"):
        if part.startswith("pipe:") and not allow_pipe:
            raise DataError(f"data.path: {part} runs a shell command; set data.allow_pipe=true if you trust it")
        if Path(part).is_dir():
            shards += sorted(str(p) for p in Path(part).glob("*.tar"))
        else:
            shards += list(braceexpand(part))
    if not shards:
        raise DataError(f"data.path: no .tar files in {path}")
    return shards


def is_remote(path: str) -> bool:
    """Whether shards are streamed (http, https, pipe) and not read by position."""
    return any(part.startswith(("http:", "https:", "pipe:")) for part in path.split("::"))


def read_index(path: Path) -> ShardIndex:
    """The index of a shard, from beside it or made now (and kept beside it if the folder can be written)."""
    stat = path.stat()
    stamp = [INDEX_VERSION, stat.st_size, stat.st_mtime_ns]
    index_path = path.with_name(path.name + INDEX_SUFFIX)
    try:
        tree = json.loads(index_path.read_text())
        if tree["stamp"] == stamp:
            members = [
                Member(m["key"], tuple(m["image"]), tuple(m["text"]), m["num_captions"], m["label"])
                for m in tree["members"]
            ]
            return ShardIndex(members, tree["truncated"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no index, or one of another file: it is made anew
    index = _scan(path)
    temporary = index_path.with_name(f"{index_path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps({"stamp": stamp, **asdict(index)}))
        temporary.replace(index_path)
    except OSError:
        logger.info("%s cannot be written, the shard is indexed again next time", index_path)
    return index


def _scan(path: Path) -> ShardIndex:
    """Read a tar file's headers (and its captions, to count them, and its classes)."""
    members: dict[str, dict[str, tuple[int, int]]] = {}
    counts: dict[str, int] = {}
    labels: dict[str, int] = {}
    size, truncated = path.stat().st_size, False
    with path.open("rb") as file:
        for name, offset, length in _headers(path):
            if offset + length > size:
                truncated = True
                break
            key, _, extension = split_name(name)
            if extension == "cls":
                file.seek(offset)
                digits = file.read(length).strip()
                labels[key] = int(digits) if digits.isdigit() else -1
            part = "text" if extension == "txt" else "image" if extension in IMAGE_EXTENSIONS else None
            if part is None or part in members.get(key, {}):
                continue  # other members are never decoded; of duplicates the first counts
            members.setdefault(key, {})[part] = (offset, length)
            if part == "text":
                file.seek(offset)
                counts[key] = len(split_captions(file.read(length).decode("utf-8", errors="replace")))
        else:
            file.seek(max(0, size - 1024))
            truncated = any(file.read())  # a whole tar file ends with two empty blocks
    found = [
        Member(key, parts.get("image", (0, 0)), parts.get("text", (0, 0)), counts.get(key, 0), labels.get(key, -1))
        for key, parts in members.items()
    ]
    return ShardIndex(found, truncated)


def _headers(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, data offset and size of every file in a tar; ends where the tar can no longer be read."""
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if info.isreg():
                    yield info.name, info.offset_data, info.size
    except tarfile.ReadError as error:
        logger.warning("%s: %s", path, error)


def split_name(name: str) -> tuple[str, str, str]:
    """``a/b.c.jpg`` to key ``a/b``, ``.`` and extension ``c.jpg``, as webdataset does."""
    base, dot, extension = PurePosixPath(name).name.partition(".")
    return str(PurePosixPath(name).parent / base), dot, extension.lower()


class ShardSource:
    """Pairs in local tar files, by position."""

    def __init__(self, paths: list[str]) -> None:
        missing = [p for p in paths if not Path(p).is_file()]
        if missing:
            raise DataError(f"data.path: shard {missing[0]} is not there ({len(missing)} of {len(paths)} missing)")
        self.paths = [Path(p) for p in paths]
        fresh = sum(not p.with_name(p.name + INDEX_SUFFIX).exists() for p in self.paths)
        indexes = [read_index(p) for p in track(self.paths, "Indexing shards", disable=fresh < 10)]
        self.members: list[tuple[int, Member]] = []
        for shard, index in enumerate(indexes):
            self.members += [(shard, member) for member in index.members]
            if index.truncated:
                logger.warning("%s ends early: %d samples before the break are used", paths[shard], len(index.members))
                self.members.append((shard, Member(f"{paths[shard]} (its end)", lost=True)))
        if all(member.lost for _, member in self.members):
            raise DataError(f"data.path: no samples ({', '.join(IMAGE_EXTENSIONS)} with txt) in {len(paths)} shards")

    def __len__(self) -> int:
        return len(self.members)

    def key(self, index: int) -> str:
        return self.members[index][1].key

    def num_captions(self, index: int) -> int:
        return self.members[index][1].num_captions

    def captions(self, index: int) -> Sequence[str]:
        shard, member = self.members[index]
        text = _read(str(self.paths[shard]), os.getpid(), *member.text)
        return split_captions(text.decode("utf-8", errors="replace"))

    def shard(self, index: int) -> int:
        return self.members[index][0]

    def stamp(self) -> str:
        return stamp_of_files(self.paths)

    def label(self, index: int) -> int:
        """Class of a pair, -1 if it has none."""
        return self.members[index][1].label

    def load(self, index: int) -> Pair:
        shard, member = self.members[index]
        if member.lost:
            raise BadSampleError("truncated", "the shard ends early")
        if not member.image[1]:
            raise BadSampleError("missing_file", f"{self.paths[shard]} has no image for {member.key}")
        try:
            image = _read(str(self.paths[shard]), os.getpid(), *member.image)
            return Pair(member.key, image, self.captions(index))
        except OSError as error:
            raise BadSampleError("missing_file", f"{self.paths[shard]}: {error.strerror}") from None


def _read(path: str, process: int, offset: int, size: int) -> bytes:
    return os.pread(_open(path, process).descriptor, size, offset)


class _OpenFile:
    """A descriptor that is closed when the cache lets it go."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@lru_cache(maxsize=64)
def _open(path: str, process: int) -> _OpenFile:
    """One descriptor for a shard and process: a forked loader must not close its parent's."""
    return _OpenFile(path)
