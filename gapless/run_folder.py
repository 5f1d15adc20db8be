"""The files of a run: what they are called, and how they come to be.

Written beside their place, flushed to disk, then renamed, so that nobody reads half of one.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from gapless.errors import DataError

CONFIG_FILE, METRICS_FILE = "config.yaml", "metrics.jsonl"
"""In a run's folder: its resolved configuration, and what it logged, a line each time."""
CHECKPOINTS, EXPORT, RESULTS, EMBEDDINGS = "checkpoints", "export", "results", "embeddings"
"""Folders in it: checkpoints, the final model, results of evaluations, and embeddings that were kept."""
LOCK, WANDB_ID = "lock", "wandb_id"
"""Files in it: the process that trains there holds a lock on the one; the other has the id of the run at wandb."""
EVALUATED_FILE = "evaluated.json"
"""File in it: which evaluations of an experiment are done."""
LATEST, BEST = "latest", "best"
"""Links in its folder of checkpoints."""
STATE_FILE, RAW_FILE, MOMENTS_FILE = "state.json", "raw.safetensors", "optimizer.safetensors"
"""In a checkpoint, beside the model: where the run was, trained weights if the model has averages, the optimiser."""
OLD_AVERAGES_FILE = "ema.safetensors"
"""In checkpoints of the first format: the averaged weights, where the model's file holds the raw ones."""
CLIP_CONFIG, CLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
"""In an export or checkpoint of a CLIP model, as open_clip calls them."""
CAPTIONER_CONFIG, CAPTIONER_WEIGHTS = "captioner.json", "captioner.safetensors"
"""In an export or checkpoint of a captioner."""
TRANSFORM_FILE = "transform.safetensors"
"""In an export: what its evaluations do to the features."""
MEANS_FILE = "means.safetensors"
"""In a folder of embeddings, or beside a captioner: the mean of each modality."""
CAPTIONS = "captions"
"""Folder in the results: captions that were generated."""
TEMPORARY = ".tmp_"
"""Beginning of the names of what is not whole yet; a killed process leaves it, and the next one replaces it."""
REPLACED = ".old_"
"""Beginning of the name of a folder in the moment in which another takes its place."""


def export_of(folder: Path, file: str) -> Path:
    """The export in a run's folder, known by a file in it; any other folder itself."""
    return folder / EXPORT if (folder / EXPORT / file).is_file() else folder


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """A free path beside ``path`` for the block to write a file or a folder to; it takes the place of ``path`` after.

    What was written is on the disk before it gets its name. If the block raises, ``path`` is as it was. A link is
    followed: what it points to is replaced, not the link.

    Args:
        path: file or folder; the folders above it are made.

    Raises:
        DataError: the disk is full, a folder is read-only or not there ...
    """
    place = Path(os.path.realpath(path))
    temporary, replaced = (place.with_name(beginning + place.name) for beginning in (TEMPORARY, REPLACED))
    with writing(path):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if replaced.is_dir() and not place.exists():  # another was killed between its two renames
                replaced.rename(place)
            remove(temporary)
            yield temporary
            flush(temporary)
            if place.is_dir() and not temporary.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if place.is_dir():
                remove(replaced)
                place.rename(replaced)
            temporary.replace(place)
            flush_folder(place.parent)
            remove(replaced)
        finally:
            remove(temporary)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file or folder that the block writes where that fails: neither libraries nor the system do.

    Raises:
        DataError: the disk is full, a folder is read-only or not there ...
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(f"{path} cannot be written ({reason})") from error


def check_file(path: Path) -> None:
    """Find out before the work whether a file can be written there; nothing is made.

    Raises:
        DataError: there is a folder of that name, or a folder above it cannot be written.
    """
    place = Path(os.path.realpath(path))
    above = next(folder for folder in place.parents if folder.exists())
    if place.is_dir():
        raise DataError(f"{path} cannot be written ({os.strerror(errno.EISDIR)})")
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        code = errno.EACCES if above.is_dir() else errno.ENOTDIR
        raise DataError(f"{path} cannot be written ({os.strerror(code)})")


@contextmanager
def rewritten(folder: Path, is_replaced: Callable[[Path], bool]) -> Iterator[Path]:
    """A new folder to write to, which takes the place of another with all of its other files, or leaves it as it was.

    Args:
        folder: need not be there.
        is_replaced: whether a file in the folder is left out of the new one.

    Raises:
        DataError: it cannot be written.
    """
    whole = Path(os.path.realpath(folder))

    def left_out(directory: str, names: list[str]) -> list[str]:
        if Path(directory) != whole:
            return []
        return [n for n in names if n.startswith(TEMPORARY) or ((whole / n).is_file() and is_replaced(whole / n))]

    with write_whole(folder) as place:
        if whole.is_dir():
            # Links take neither time nor room. What is written to the new folder must be renamed into its place, as
            # write_whole does: writing through a link would change the old file.
            shutil.copytree(whole, place, symlinks=True, copy_function=_link, ignore=left_out)
        else:
            place.mkdir()
        yield place


@contextmanager
def written_into(folder: Path) -> Iterator[Path]:
    """A new folder to write files to, for what writes several; each takes its place in ``folder``, others there stay.

    Raises:
        DataError: a file cannot be written.
    """
    temporary = folder / f"{TEMPORARY}files"
    with writing(folder):
        try:
            remove(temporary)
            temporary.mkdir(parents=True)
            yield temporary
            flush(temporary)
            for path in temporary.iterdir():
                if path.is_dir():
                    remove(folder / path.name)
                path.replace(folder / path.name)
            flush_folder(folder)
        finally:
            remove(temporary)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target, follow_symlinks=False)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, as UTF-8.

    Raises:
        DataError: it cannot be written.
    """
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    """Wait until a file, or everything in a folder, is on the disk."""
    if path.is_symlink():  # may lead anywhere, or nowhere
        return
    if path.is_dir():
        for inner in path.iterdir():
            flush(inner)
        flush_folder(path)
    else:
        with path.open("r+b") as file:  # some systems flush only what was opened for writing
            os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
