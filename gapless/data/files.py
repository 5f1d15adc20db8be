"""Pairs from a folder (image and same-named .txt) or from a csv file."""

import csv
from pathlib import Path

from gapless.data.images import IMAGE_EXTENSIONS
from gapless.data.pairs import FilePair
from gapless.errors import DataError


def folder_pairs(root: Path) -> list[FilePair]:
    """Every image below a folder with the captions, one a line, of the .txt file of the same name.

    An image without a .txt file is a pair without captions, and is counted as such when it is read.
    """
    if not root.is_dir():
        raise DataError(f"data.path: {root} is not a folder")
    images = sorted(p for p in root.rglob("*") if p.suffix[1:].lower() in IMAGE_EXTENSIONS)
    if not images:
        raise DataError(f"data.path: no images ({', '.join(IMAGE_EXTENSIONS)}) below {root}")
    return [FilePair(str(p.relative_to(root).with_suffix("")), p, _captions(p.with_suffix(".txt"))) for p in images]


def _captions(path: Path) -> tuple[str, ...]:
    return split_captions(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else ()


def split_captions(text: str) -> tuple[str, ...]:
    """The captions of a .txt file or member: one a line."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def csv_pairs(path: Path, image: str, caption: str, separator: str) -> list[FilePair]:
    """The pairs of a csv file; rows that name the same image are one pair with several captions.

    Args:
        path: the csv file; relative image paths start at its folder.
        image: column of the image path.
        caption: column of the caption.
        separator: between columns.

    Raises:
        DataError: no such file, a column that is not there, or no rows.
    """
    captions: dict[str, list[str]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, delimiter=separator)
            for key, column in (("csv_image", image), ("csv_caption", caption)):
                if column not in (reader.fieldnames or ()):
                    raise DataError(
                        f"data.{key}: {path} has no column {column!r}, only {reader.fieldnames} "
                        f"(data.csv_separator is {separator!r})"
                    )
            for row in reader:
                captions.setdefault(row[image] or "", []).append(row[caption] or "")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"data.path: {path} cannot be read ({error})") from None
    if not captions:
        raise DataError(f"data.path: {path} has no rows")
    return [FilePair(name, path.parent / name, tuple(texts)) for name, texts in captions.items()]
