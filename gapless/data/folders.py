"""Which files below a folder are pictures and captions, and which are left out."""

import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from gapless.data.images import IMAGE_EXTENSIONS, printable
from gapless.errors import DataError

logger = logging.getLogger(__name__)

NAMED = 12
"""Kinds of left-out files that are named; all are counted."""


@dataclass
class FolderFiles:
    """The files below a folder."""

    images: list[Path] = field(default_factory=list)
    """Pictures, sorted."""
    texts: dict[Path, Path] = field(default_factory=dict)
    """Text files by their paths without the ending."""
    left_out: Counter[str] = field(default_factory=Counter)
    """What is not read, by its ending or the reason."""


def look_through(root: Path) -> FolderFiles:
    """The pictures and texts below a folder. Links are followed; a folder that two paths lead to is read once.

    Raises:
        DataError: the folder is not there.
    """
    if not root.is_dir():
        raise DataError(f"{printable(root)} is not a folder")
    files = FolderFiles()
    for path in _files(root, files.left_out):
        ending = path.suffix.lower()
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            files.left_out["hidden"] += 1
        elif ending[1:] in IMAGE_EXTENSIONS:
            files.images.append(path)
        elif ending == ".txt" and path.is_file():  # reading a pipe would wait for ever
            files.left_out[".txt beside another of its name"] += path.with_suffix("") in files.texts
            files.texts[path.with_suffix("")] = path
        else:
            files.left_out[printable(ending)[:12] or "without an ending"] += 1
    files.images.sort()
    return files


def _files(root: Path, left_out: Counter[str]) -> list[Path]:
    """Files below a folder and its links, real folders before linked ones."""
    seen: set[tuple[int, int]] = set()
    files: list[Path] = []
    tops = [root]

    def unreadable(error: OSError) -> None:
        left_out[f"folders that cannot be read ({error.strerror})"] += 1

    while tops:
        linked: list[Path] = []
        for top in sorted(tops):
            for name, folders, names in os.walk(top, onerror=unreadable):
                folder = Path(name)
                status = folder.stat()
                if (status.st_dev, status.st_ino) in seen:
                    left_out["folders that were read already"] += 1
                    folders.clear()
                    continue
                seen.add((status.st_dev, status.st_ino))
                files += [folder / name for name in names]
                linked += [folder / name for name in folders if (folder / name).is_symlink()]
        tops = linked
    return sorted(files)


def tell_left_out(root: Path, left_out: Counter[str]) -> None:
    """Say once in the log what is left out of a folder."""
    counts = (+left_out).most_common()
    if counts:
        kinds = ", ".join(f"{number} {what}" for what, number in sorted(counts[:NAMED], key=lambda item: item[0]))
        rest = sum(number for _, number in counts[NAMED:])
        kinds += f", {rest} of other kinds" if rest else ""
        _warn(f"{printable(root)}: files that are left out: {kinds}")


@cache
def _warn(message: str) -> None:
    logger.warning("%s", message)
