"""Pairs from a folder (image and same-named .txt) or from a csv file."""

import csv
import io
import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gapless.config import DataConfig
from gapless.data.folders import look_through, tell_left_out
from gapless.data.images import IMAGE_EXTENSIONS, printable
from gapless.data.pairs import FilePair, FileSource
from gapless.data.texts import WESTERN, UnreadableTextError, decode_text, split_captions
from gapless.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


def build_folder(config: DataConfig, path: str) -> FileSource:
    """The source ``folder``; raises DataError as :func:`folder_pairs`."""
    return FileSource(folder_pairs(Path(path)))


def build_csv(config: DataConfig, path: str) -> FileSource:
    """The source ``csv``; raises DataError and ConfigError as :func:`csv_pairs`."""
    return FileSource(csv_pairs(Path(path), config.csv_image, config.csv_caption, config.csv_separator))


def folder_pairs(root: Path) -> list[FilePair]:
    """Every image below a folder with the captions, one a line, of the .txt file of the same name.

    An image without a .txt file is a pair without captions, and is counted as such when it is read. Links to folders
    are followed. Files of other kinds are counted in the log, by their ending.

    Raises:
        DataError: no such folder, or no image in it.
    """
    try:
        files = look_through(root)
    except DataError as error:
        raise DataError(f"data.path: {error}") from None
    if not files.images:
        tell_left_out(root, files.left_out)
        raise DataError(f"data.path: no images ({', '.join(IMAGE_EXTENSIONS)}) below {printable(root)}")
    stems = [path.with_suffix("") for path in files.images]
    captions = _captions_of({stem: files.texts[stem] for stem in stems if stem in files.texts}, files.left_out)
    files.left_out[".txt without a picture"] += len(files.texts.keys() - {*stems})
    tell_left_out(root, files.left_out)
    return [
        FilePair(printable(stem.relative_to(root)), path, captions.get(stem, ()))
        for stem, path in zip(stems, files.images, strict=True)
    ]


def _captions_of(texts: dict[Path, Path], left_out: Counter[str]) -> dict[Path, tuple[str, ...]]:
    """The captions in text files, by what is passed as their keys."""
    captions: dict[Path, tuple[str, ...]] = {}
    guessed, unreadable = [], []
    for stem, path in texts.items():
        try:
            text, encoding = decode_text(path.read_bytes())
        except (OSError, UnreadableTextError) as error:
            unreadable.append(f"{printable(path)}, {getattr(error, 'strerror', None) or error}")
            continue
        if encoding == WESTERN:
            guessed.append(printable(path))
        captions[stem] = split_captions(text)
    if guessed:
        logger.warning("%d texts are no UTF-8 and are read as Windows-1252, first %s", len(guessed), guessed[0])
    if unreadable:
        left_out[f".txt that cannot be read (first: {unreadable[0]})"] += len(unreadable)
    return captions


def csv_pairs(path: Path, image: str, caption: str, separator: str) -> list[FilePair]:
    r"""The pairs of a csv file; rows that name the same image are one pair with several captions.

    Args:
        path: the csv file; relative image paths start at its folder. Cells that hold the separator, a quotation mark or
            a line break stand between quotation marks.
        image: column of the image path.
        caption: column of the caption.
        separator: between columns, one character; ``\t`` typed as two is a tab.

    Raises:
        ConfigError: a separator of no or several characters.
        DataError: no such file, a column that is not there or is there twice, no rows, or one that cannot be read as
            it is meant; the message has its line and row.
    """
    separator = "\t" if separator == r"\t" else separator
    if len(separator) != 1 or separator in '"\r\n':
        raise ConfigError(rf"data.csv_separator: {separator!r} is not one character, as , or ; or \t")
    rows = _rows(path, separator)
    _, header = next(rows, ((0, 0), []))
    columns = [
        _column(header, *setting, path, separator) for setting in (("csv_image", image), ("csv_caption", caption))
    ]
    captions: dict[str, list[str]] = {}
    for place, cells in rows:
        if any(cell.strip() for cell in cells[len(header) :]) or len(cells) < len(header):
            reason = f"{len(cells)} cells under a header of {len(header)}"
            quoting = f"put cells that hold {separator!r} or a line break between quotation marks"
            raise DataError(f"{_where(path, *place)}: {reason}; {quoting}")
        name, text = (cells[column] for column in columns)
        captions.setdefault(name, []).append(text)
    if not captions:
        raise DataError(f"data.path: {printable(path)} has no rows")
    folder = path.parent
    return [FilePair(name, _image(folder, name), tuple(texts)) for name, texts in captions.items()]


def _column(header: list[str], key: str, name: str, path: Path, separator: str) -> int:
    if header.count(name) == 1:
        return header.index(name)
    reason = f"has no column {name!r}, only {header}" if name not in header else f"has the column {name!r} twice"
    raise DataError(f"data.{key}: {printable(path)} {reason} (data.csv_separator is {separator!r})")


def _where(path: Path, line: int, row: int) -> str:
    return f"data.path: {printable(path)}, line {line} (row {row} below the header)"


def _rows(path: Path, separator: str) -> Iterator[tuple[tuple[int, int], list[str]]]:
    """The rows that are not blank, the header first, each with its first line and its number below the header."""
    try:
        text, encoding = decode_text(path.read_bytes())
    except (OSError, UnreadableTextError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"data.path: {printable(path)} cannot be read ({reason})") from None
    if encoding == WESTERN:
        logger.warning("%s is no UTF-8 and is read as Windows-1252", printable(path))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    row = 0
    while True:
        first = reader.line_num
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = f"{error}; a quotation mark in a cell is doubled, and its cell quoted"
            raise DataError(f"{_where(path, first + 1, row)}: {reason}") from None
        if reader.line_num - first > 1 and any(_holds_rows(cell, separator) for cell in cells):
            reason = "a quotation mark opens and swallows the rows behind it; double or remove it"
            raise DataError(f"{_where(path, first + 1, row)}: {reason}")
        if any(cell.strip() for cell in cells):  # spreadsheet programs write empty rows
            yield (first + 1, row), cells
            row += 1


def _holds_rows(cell: str, separator: str) -> bool:
    """Whether a cell of several lines holds what were rows: a tab, or the name of a picture beside other cells."""
    lines = re.split(r"\r\n|\r|\n", cell)
    parts = [line.split(separator) for line in lines if separator in line and len(lines) > 1]
    endings = {part.strip(' "').rpartition(".")[2].lower() for line in parts for part in line}
    return bool(parts) and (separator == "\t" or not endings.isdisjoint(IMAGE_EXTENSIONS))


def _image(folder: Path, name: str) -> Path:
    """The image of a row; a name that Windows wrote has backslashes."""
    image = folder / name
    return image if "\\" not in name or image.exists() else folder / name.replace("\\", "/")
