"""The record of a gapless prepare that has not finished: what it writes, from what, and which shards are whole."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gapless.data.manifest import UNFINISHED_FILE
from gapless.errors import DataError
from gapless.run_folder import checksum, write_text


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder for one process, making it first; folders that were made and stay empty are removed again.

    Raises:
        DataError: another process writes there, or it is no folder and cannot become one.
    """
    try:
        new = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"output: {str(folder)!r} cannot be a folder of shards ({reason})") from None
    try:
        with suppress(OSError):  # some network disks know no such locks
            _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)
        with suppress(OSError):
            for parent in new:
                parent.rmdir()


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"output: another gapless prepare writes to {folder}") from None


def read_unfinished(folder: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The shards that an interrupted command with the same settings has written and that are still whole.

    Raises:
        DataError: the folder has other shards, or those of other settings.
    """
    place = folder / UNFINISHED_FILE
    if not place.is_file():
        if any(not path.name.startswith(".") for path in folder.glob("*.tar")):
            raise DataError(f"output: {folder} already has .tar files, choose a new folder")
        return []
    try:
        tree = json.loads(place.read_text(encoding="utf-8"))
        begun, shards = dict(tree["settings"]), list(tree["shards"])
        other = [key for key, value in settings.items() if begun.get(key) != value]
        if not other:
            whole = [s["bytes"] == _size(folder / s["name"]) and _same(folder, s) for s in shards]
            return shards[: [*whole, False].index(False)]
    except (ValueError, KeyError, TypeError):
        other = [f"a damaged {UNFINISHED_FILE}"]
    raise DataError(
        f"output: {folder} holds shards of a gapless prepare that did not finish, with another {' and '.join(other)}; "
        "repeat that command, or remove the folder"
    )


def write_unfinished(folder: Path, settings: dict[str, Any], shards: list[dict[str, Any]]) -> None:
    """Keep what is whole so far."""
    write_text(folder / UNFINISHED_FILE, json.dumps({"settings": settings, "shards": shards}, indent=2) + "\n")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _same(folder: Path, shard: dict[str, Any]) -> bool:
    return Path(shard["name"]).name == shard["name"] and checksum(folder / shard["name"]) == shard["sha256"]
