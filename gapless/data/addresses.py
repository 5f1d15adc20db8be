"""Where shards lie: brace ranges, lists and folders to addresses, each with a scheme that is allowed."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from braceexpand import braceexpand

from gapless.errors import DataError

MAX_SHARDS = 1_000_000
"""More names than this are refused before they are made."""
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""Endings of shards that can only be read from their beginning."""
STREAMED = ("http", "https", "pipe")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?|([A-Za-z])\.\.([A-Za-z])(?:\.\.(-?\d+))?")


def expand_shards(path: str, allow_pipe: bool = False, key: str = "data.path") -> list[str]:
    """Shard addresses from brace ranges, '::'-joined lists and folders of .tar files.

    Every address is checked after its braces are expanded: local files, http: and https: are read, 'pipe:' runs a
    shell command and must be allowed, and there is nothing else.

    Args:
        path: as in data.path.
        allow_pipe: whether 'pipe:' addresses may run their commands.
        key: what an error names.

    Raises:
        DataError: nothing matches, too many names, unbalanced braces, or an address that is not allowed.
    """
    try:
        shards = [_checked(address, allow_pipe) for address in _expanded(path)]
    except ValueError as error:
        raise DataError(f"{key}: {error}") from None
    if not shards:
        raise DataError(f"{key}: no .tar files in {path}")
    return shards


def is_streamed(path: str, key: str = "data.path") -> bool:
    """Whether shards are read as streams (http, https, pipe, compressed ones) and not by position.

    Raises:
        DataError: see :func:`expand_shards`.
    """
    return any(map(is_streamed_address, expand_shards(path, True, key)))


def is_streamed_address(address: str) -> bool:
    """Whether one shard can only be read from its beginning."""
    return scheme_of(address) in STREAMED or address.lower().endswith(COMPRESSED)


def scheme_of(address: str) -> str:
    """The scheme of an address in small letters, empty for a local path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", address)
    return match[1].lower() if match and not os.path.exists(address) else ""


def folder_and_name(address: str) -> tuple[str, str]:
    """What lies before the file of an address, and the file's name."""
    if scheme_of(address) not in ("http", "https"):
        return str(Path(address).parent), Path(address).name
    place = urlsplit(address)
    folder, _, name = place.path.rpartition("/")
    return f"{place.scheme}://{place.netloc}{folder}", name


def _checked(address: str, allow_pipe: bool) -> str:
    if "\0" in address:
        raise ValueError(f"{address!r} has a NUL character, which no file name can have")
    scheme = scheme_of(address)
    if scheme == "file":
        return url2pathname(urlsplit(address).path)
    if scheme == "pipe" and not allow_pipe:
        raise ValueError(f"{address} runs a shell command; set data.allow_pipe=true if you trust it")
    if scheme and scheme not in STREAMED:
        raise ValueError(
            f"{address} cannot be read: {scheme}: is none of http:, https:, and pipe: for the output of a command; "
            "copy the shards to a local folder"
        )
    return address


def _expanded(path: str) -> tuple[str, ...]:
    paths: list[str] = []
    for part in (part.strip() for part in path.split("::")):
        number = _count_names(part)
        if os.path.isdir(part):
            paths += _tars_in(Path(part))
        elif os.path.isfile(part):
            paths.append(part)  # also with braces in its name
        elif number > MAX_SHARDS:
            raise ValueError(f"{part} stands for {number:,} shards, at most {MAX_SHARDS:,} are read")
        elif part:
            try:
                paths += braceexpand(part)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{part} has braces that do not match ({error})") from None
    return tuple(paths)


def _tars_in(folder: Path) -> list[str]:
    """The shards in a folder; names that begin with a dot are other programs' or not whole yet."""
    files = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())
    plain = [str(p) for p in files if p.name.endswith(".tar")]
    return plain or [str(p) for p in files if p.name.endswith(COMPRESSED)]


def _count_names(pattern: str) -> int:
    """How many names the braces of a pattern stand for, without making any of them."""
    open_braces: list[tuple[int, int, int]] = []  # where a brace opens; product and sum of what is around it
    product, total, position = 1, 0, 0
    while position < len(pattern):
        character = pattern[position]
        if character == "\\":
            position += 1
        elif character == "{":
            open_braces.append((position, product, total))
            product, total = 1, 0
        elif character == "," and open_braces:
            total, product = total + product, 1
        elif character == "}" and open_braces:
            start, outer, outer_total = open_braces.pop()
            inside = total + product if total else _range_size(pattern[start + 1 : position]) or product
            product, total = min(outer * inside, 10**18), outer_total
        position += 1
    return product


def _range_size(text: str) -> int:
    """Numbers or letters in ``FIRST..LAST`` or ``FIRST..LAST..STEP``; 0 for any other text."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return 0
    if max(map(len, filter(None, match.groups()))) > 18:
        return 10**18
    first, last = (int(match[1]), int(match[2])) if match[1] else (ord(match[4]), ord(match[5]))
    return abs(last - first) // max(1, abs(int(match[3] or match[6] or 1))) + 1
