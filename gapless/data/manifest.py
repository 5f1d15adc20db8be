"""What is known of shards before they are read: shards.json of gapless prepare, sizes.json of other programs."""

import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from gapless.data.addresses import folder_and_name, scheme_of
from gapless.data.remote import fetch
from gapless.errors import DataError

logger = logging.getLogger(__name__)

SHARDS_FILE = "shards.json"
SIZES_FILE = "sizes.json"
UNFINISHED_FILE = "unfinished.json"
"""Lies in the folder of gapless prepare until its last shard is written."""

MAX_SAMPLES = 10_000_000
"""More than any shard holds."""


class ShardRecord(NamedTuple):
    """What is known of a shard without reading it."""

    samples: int
    bytes: int | None = None
    sha256: str | None = None


def local_records(paths: Collection[Path], folders: Collection[Path] = ()) -> dict[Path, ShardRecord]:
    """What is known of local shards, by their paths.

    Args:
        paths: the shards.
        folders: of these every shard is meant.

    Raises:
        DataError: gapless prepare has not finished a folder, or a shard is missing in one of ``folders``.
    """
    described: dict[Path, ShardRecord] = {}
    for folder in dict.fromkeys(path.parent for path in paths):
        records = _records_in(folder)
        missing = [name for name in records if not (folder / name).is_file()] if folder in folders else []
        if missing:
            raise DataError(
                f"data.path: {folder} lacks {missing[0]} ({len(missing)} of the {len(records)} shards that its "
                f"{SHARDS_FILE} or {SIZES_FILE} names); copy it again, or name the shards that you mean"
            )
        described |= {path: records[path.name] for path in paths if path.parent == folder and path.name in records}
    return described


def check_size(path: Path, record: ShardRecord | None) -> None:
    """Compare a shard's length with what shards.json says of it.

    Raises:
        DataError: it is another one.
    """
    if record and record.bytes is not None and path.stat().st_size != record.bytes:
        raise DataError(
            f"data.path: {path} has {path.stat().st_size} bytes and {SHARDS_FILE} beside it says {record.bytes}; "
            "copy it again, or remove shards.json if the shard was changed on purpose"
        )


def remote_records(shards: list[str], timeout: float) -> dict[str, ShardRecord]:
    """What files beside streamed shards record of them, by address; shards without a record are left out.

    Raises:
        DataError: a server that says nothing for ``timeout`` seconds, or a file that makes no sense.
    """
    described: dict[str, ShardRecord] = {}
    places = {shard: folder_and_name(shard) for shard in shards if scheme_of(shard) != "pipe"}
    for folder in dict.fromkeys(folder for folder, _ in places.values()):
        records = _records_at(folder, timeout) if "://" in folder else _records_in(Path(folder))
        described |= {
            shard: records[name] for shard, (place, name) in places.items() if place == folder and name in records
        }
    return described


def _records_in(folder: Path) -> dict[str, ShardRecord]:
    for path in (folder / UNFINISHED_FILE, folder / SHARDS_FILE, folder / SIZES_FILE):
        if path.is_file() and (records := parse_records(path.read_bytes(), str(path))):
            return records
    return {}


def _records_at(folder: str, timeout: float) -> dict[str, ShardRecord]:
    for name in (SHARDS_FILE, UNFINISHED_FILE, SIZES_FILE):
        text = fetch(f"{folder}/{name}", timeout)
        if text is not None and (records := parse_records(text, f"{folder}/{name}")):
            return records
    return {}


def parse_records(text: bytes, place: str) -> dict[str, ShardRecord]:
    """The records in shards.json or sizes.json by file name; none if it is another program's file.

    Raises:
        DataError: the record of an unfinished gapless prepare, cut JSON, or numbers that no shard can have.
    """
    if place.endswith(UNFINISHED_FILE):
        raise DataError(
            f"data.path: gapless prepare has not finished these shards ({place} is its record); the same command "
            "continues and removes that file"
        )
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"data.path: {place} is no whole JSON file; remove it or copy it again") from None
    if place.endswith(SIZES_FILE) and isinstance(tree, dict):
        return {name: ShardRecord(_number(size, name, place)) for name, size in tree.items()}
    listed = tree.get("shards") if isinstance(tree, dict) else None
    if not isinstance(listed, list) or not all(isinstance(s, dict) and isinstance(s.get("name"), str) for s in listed):
        logger.info("%s is not read: it is not of gapless prepare", place)
        return {}
    return {s["name"]: _record(s, place) for s in listed}


def _record(shard: dict[str, Any], place: str) -> ShardRecord:
    name, checksum = shard["name"], shard.get("sha256")
    return ShardRecord(
        _number(shard.get("samples"), name, place),
        _number(shard["bytes"], name, place, 2**60) if "bytes" in shard else None,
        checksum if isinstance(checksum, str) else None,
    )


def _number(value: Any, name: str, place: str, largest: int = MAX_SAMPLES) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise DataError(
            f"data.path: {place} says {str(value)[:40]!r} of {name}, it must be a number from 0 to {largest}"
        )
    return value
