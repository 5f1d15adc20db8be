"""Local webdataset shards, read by position: indexed once, member offsets kept beside the tar file."""

import errno
import hashlib
import json
import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.progress import track

from gapless.config import DataConfig
from gapless.data.addresses import expand_shards, is_streamed_address
from gapless.data.images import BadSampleError
from gapless.data.manifest import SHARDS_FILE, ShardRecord, check_size, local_records
from gapless.data.members import RULE, SMALL, TarSample, captions_of, split_name, tar_samples
from gapless.data.pairs import Pair, digest_of, stamp_of_files
from gapless.data.tar import Damage, read_tar
from gapless.errors import DataError
from gapless.run_folder import checksum, write_text

logger = logging.getLogger(__name__)

INDEX_SUFFIX = ".index.json"
INDEX_VERSION = 4


@dataclass(frozen=True)
class Member:
    """Where a shard keeps one sample; offset and size are 0 where a part is missing."""

    key: str
    image: tuple[int, int] = (0, 0)
    text: tuple[int, int] = (0, 0)
    ending: str = ""
    """Of the member with the captions, txt or json."""
    num_captions: int = 0
    label: int = -1
    """Class in the .cls member; -1 without one."""
    problem: str = ""
    """The members of a sample that lacks its picture or its captions, or why it is lost."""
    lost: bool = False
    """Stands for a sample in a damaged part of a shard, which can only be counted."""


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a shard, what is damaged in it, and the checksum of the file if one was asked for."""

    members: list[Member] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    sha256: str | None = None


def read_index(path: Path, record: ShardRecord | None = None, json_caption: str = "caption") -> ShardIndex:
    """The index of a shard, from beside it or made now (and kept beside it if the folder can be written).

    Args:
        path: the shard.
        record: what shards.json says of it.
        json_caption: key of the captions in .json members.

    Raises:
        DataError: the file is not the one that the record describes.
    """
    check_size(path, record)
    stat = path.stat()
    stamp = [INDEX_VERSION, stat.st_size, stat.st_mtime_ns, json_caption]
    # Where no index can be kept, the whole file would be read again at every start.
    expected = record.sha256 if record and os.access(path.parent, os.W_OK) else None
    index_path = path.with_name(path.name + INDEX_SUFFIX)
    index = _kept_index(index_path, stamp)
    if index is not None and expected in (None, index.sha256):
        return index
    index = _scan(path, json_caption, expected is not None)
    if expected not in (None, index.sha256):
        raise DataError(
            f"data.path: {path} is not the file that {SHARDS_FILE} beside it describes (its sha256 differs); copy it "
            "again, or remove shards.json if the shard was changed on purpose"
        )
    try:
        content = asdict(index)
        write_text(index_path, json.dumps({"stamp": stamp, "checksum": _checksum(content), **content}))
    except DataError as error:
        logger.info("%s; the shard is indexed again next time", error)
    return index


def _kept_index(path: Path, stamp: list[Any]) -> ShardIndex | None:
    """The index in a file, None if it is of another file or not whole."""
    try:
        tree = json.loads(path.read_text()) if path.is_file() else {}
        if tree.pop("stamp") != stamp or tree.pop("checksum") != _checksum(tree):
            return None
        members = [Member(**m | {"image": tuple(m["image"]), "text": tuple(m["text"])}) for m in tree["members"]]
        parts = [part for member in members for part in (member.image, member.text)]
        if all(0 <= offset <= offset + size <= stamp[1] for offset, size in parts):
            return ShardIndex(members, tree["damage"], tree["sha256"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return None


def _checksum(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()


def _scan(path: Path, json_caption: str, with_checksum: bool) -> ShardIndex:
    """Read a tar file's headers (and its captions, to count them, and its classes)."""
    members: list[Member] = []
    damage: list[str] = []
    with path.open("rb") as file:
        for sample in tar_samples(read_tar(file, lambda name: split_name(name)[1] in SMALL), together=False):
            if isinstance(sample, Damage):
                damage.append(f"{sample.detail} at byte {sample.offset}")
            else:
                members.append(_member(sample, json_caption))
    return ShardIndex(members, damage, checksum(path) if with_checksum else None)


def _member(sample: TarSample, json_caption: str) -> Member:
    image, text, captions = sample.image, sample.text, sample.captions(json_caption)
    return Member(
        sample.key,
        (image.offset, image.size) if image else (0, 0),
        (text[1].offset, text[1].size) if text else (0, 0),
        text[0] if text else "",
        len(captions),
        sample.label,
        "" if image and captions else sample.describe(json_caption),
    )


def build_shards(config: DataConfig, path: str) -> "ShardSource":
    """The source ``shards``, of local files; raises DataError as :class:`ShardSource`."""
    key = "data.path" if path == str(config.path) else "data.val_path"
    folders = [Path(part.strip()) for part in path.split("::")]
    return ShardSource(expand_shards(path, config.allow_pipe, key), folders, config.json_caption)


class ShardSource:
    """Pairs in local tar files, by position.

    Args:
        paths: the tar files.
        folders: of these every shard is meant, so that one which is missing is an error.
        json_caption: key of the captions in .json members, which are read where there is no .txt.

    Raises:
        DataError: a shard is missing, unfinished or not the file that shards.json describes, or there are no samples.
    """

    def __init__(self, paths: Sequence[str], folders: Collection[Path] = (), json_caption: str = "caption") -> None:
        _check_files(paths)
        self.paths, self.json_caption = [Path(p) for p in paths], json_caption
        records = local_records(self.paths, folders)
        fresh = sum(not p.with_name(p.name + INDEX_SUFFIX).exists() for p in self.paths)
        shown = track(self.paths, "Indexing shards") if fresh >= 10 else self.paths
        indexes = [read_index(p, records.get(p), json_caption) for p in shown]
        whole = [len(index.members) for index in indexes if not index.damage]
        typical = round(sum(whole) / len(whole)) if whole else 0
        self.members: list[tuple[int, Member]] = []
        for shard, index in enumerate(indexes):
            self.members += [(shard, member) for member in index.members]
            if index.damage:
                record = records.get(self.paths[shard])
                lost = max(1, (record.samples if record else typical) - len(index.members))
                logger.warning("%s is damaged (%s): %d samples count as lost", paths[shard], index.damage[0], lost)
                keys = (f"{self.paths[shard].name}, lost {k}" for k in range(lost))  # each is held out or not by itself
                self.members += [(shard, Member(key, problem=index.damage[0], lost=True)) for key in keys]
        self._check_samples()

    def _check_samples(self) -> None:
        whole = [member for _, member in self.members if not member.lost]
        unlike = [m for m in whole if not m.image[1] or not (m.num_captions or m.label >= 0)]
        where = f"{len(self.paths)} shards" if len(self.paths) != 1 else str(self.paths[0])
        first = f"; the first that looks like one: {unlike[0].problem}" if unlike else ""
        if len(unlike) == len(whole):
            raise DataError(
                f"data.path: no samples in {where}: {RULE}; data.json_caption is {self.json_caption!r}{first}"
            )
        if unlike:
            logger.warning("%d of %d samples in %s lack a picture or captions%s", len(unlike), len(whole), where, first)

    def __len__(self) -> int:
        return len(self.members)

    def key(self, index: int) -> str:
        return self.members[index][1].key

    def num_captions(self, index: int) -> int:
        return self.members[index][1].num_captions

    def captions(self, index: int) -> Sequence[str]:
        shard, member = self.members[index]
        text = _read(str(self.paths[shard]), os.getpid(), *member.text)
        return captions_of(member.ending, text, self.json_caption) if member.ending else ()

    def shard(self, index: int) -> int:
        return self.members[index][0]

    def stamp(self) -> str:
        return stamp_of_files(self.paths)

    def fingerprint(self) -> str:
        sizes = [path.stat().st_size for path in self.paths]
        return digest_of([*(member.key for _, member in self.members), sizes])

    def label(self, index: int) -> int:
        """Class of a pair, -1 if it has none."""
        return self.members[index][1].label

    def load(self, index: int) -> Pair:
        shard, member = self.members[index]
        if member.lost:
            raise BadSampleError("truncated", member.problem)
        if not member.image[1]:
            raise BadSampleError(
                "missing_file", f"{self.paths[shard]} has no picture of {member.key}: {member.problem}"
            )
        try:
            image = _read(str(self.paths[shard]), os.getpid(), *member.image)
            return Pair(member.key, image, self.captions(index))
        except OSError as error:
            raise BadSampleError("missing_file", f"{self.paths[shard]}: {error.strerror}") from None


def _check_files(paths: Sequence[str]) -> None:
    streamed = [p for p in paths if is_streamed_address(p)]
    if streamed:
        raise DataError(
            f"data.path: {streamed[0]} cannot be read by position; here shards must be local and not compressed"
        )
    missing = [p for p in paths if not os.path.isfile(p)]
    if missing:
        reason = "is no regular file" if os.path.exists(missing[0]) else "is not there"
        raise DataError(f"data.path: shard {missing[0]} {reason} ({len(missing)} of {len(paths)} missing)")


def _read(path: str, process: int, offset: int, size: int) -> bytes:
    content = os.pread(_open(path, process).descriptor, size, offset)
    if len(content) < size:
        raise OSError(errno.EIO, "is shorter than it was when it was indexed")
    return content


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
