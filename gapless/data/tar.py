"""The members of a tar file from its beginning to its end, also past damage. Nothing is ever unpacked to disk."""

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException
from typing import IO, NamedTuple

BLOCK = 512
MAX_MEMBER = 2**29
"""Bytes; larger members are left out."""
MAX_HEADER = 2**20
"""Bytes of a long name or of extended headers."""
MAX_PADDING = 2**21
"""Zeros at the end; more of them are the rest of a file whose download was never finished."""
READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, HTTPException)
"""What reading a file, a stream or compressed data may raise."""


class TarMember(NamedTuple):
    """A file in a tar file."""

    name: str
    offset: int = 0
    """Where its content begins."""
    size: int = 0
    content: bytes = b""
    """What it holds, if that was wanted."""
    problem: str = ""
    """Why it cannot be read; empty for most."""


class Damage(NamedTuple):
    """A part of a tar file in which members may be lost."""

    offset: int
    detail: str


def read_tar(file: IO[bytes], is_read: Callable[[str], bool]) -> Iterator[TarMember | Damage]:
    """Walk a tar file by its headers; past a damaged header at the next one that is whole.

    Concatenated archives are read to the end. Links and sparse files are members with a problem.

    Args:
        file: open for reading, seekable or not.
        is_read: whether the content of a member is read, by its name.

    Yields:
        Members and damage in the order of the file. An error of reading ends the file and is damage.
    """
    cursor = _Cursor(file)
    try:
        yield from _walk(cursor, is_read)
    except READ_ERRORS as error:
        yield Damage(cursor.position, reason_of(error))


def reason_of(error: Exception) -> str:
    """What an error of reading says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


class _Cursor:
    """Reads on, and knows where it is."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.position = file, 0

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end."""
        parts: list[bytes] = []
        while size and (part := self.file.read(min(size, 2**20))):
            parts.append(part)
            size -= len(part)
            self.position += len(part)
        return b"".join(parts)

    def move(self, position: int) -> bool:
        """Skip to a position; whether the file goes on until there."""
        if position <= self.position:
            return True
        if self.file.seekable():
            self.file.seek(position - 1)
            self.position = position - 1
        while self.position < position:
            if not self.read(min(position - self.position, 2**20)):
                return False
        return True


def _walk(cursor: _Cursor, is_read: Callable[[str], bool]) -> Iterator[TarMember | Damage]:
    start, damaged, after_end = 0, -1, False
    zeros, extended, whole = 0, dict[str, str](), True
    while whole and len(block := cursor.read(BLOCK)) == BLOCK:
        start = cursor.position - BLOCK
        if not any(block):
            zeros += BLOCK
            continue
        info = _header(block)
        if info is None:
            if damaged < 0:  # behind the end mark it is nobody's, unless members follow
                damaged, after_end = start, zeros >= 2 * BLOCK
            extended = {}
            continue
        if damaged >= 0:
            yield Damage(damaged, "a header is damaged")
        damaged, zeros = -1, 0
        if info.type in _HEADERS:
            end = cursor.position + info.size
            extended |= _extended(info, cursor.read(min(info.size, MAX_HEADER)))
        else:
            member = _member(info, extended, cursor, is_read)
            end, extended = member.offset + member.size, {}
            whole = cursor.move(end)
            if whole and (info.isreg() or member.problem):
                yield member
        whole = cursor.move(-(-end // BLOCK) * BLOCK)
    if damaged >= 0 and not after_end:
        yield Damage(damaged, "a header is damaged")
    elif damaged < 0 and (not whole or zeros < BLOCK):
        yield Damage(cursor.position if whole else start, "the file ends early")
    elif damaged < 0 and zeros > MAX_PADDING:
        yield Damage(cursor.position - zeros, f"nothing but zeros in the last {zeros} bytes")


_HEADERS = {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE}  # fmt: skip


def _header(block: bytes) -> tarfile.TarInfo | None:
    try:
        # A name in another encoding stays distinct, and can be written into every file.
        info = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except (tarfile.TarError, ValueError):
        return None
    return info if 0 <= info.size < 2**60 else None


def _extended(info: tarfile.TarInfo, content: bytes) -> dict[str, str]:
    """What a header of its own says of the next member: its name, its size."""
    if info.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.split(b"\0")[0].decode("utf-8", "backslashreplace")}
    records: dict[str, str] = {}
    while info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE) and content[:1].isdigit():
        length = content.split(b" ", 1)[0]
        if not length.isdigit() or len(length) > 7 or int(length) <= len(length) + 1:
            break
        record, content = content[len(length) + 1 : int(length)], content[int(length) :]
        name, _, value = record.rstrip(b"\n").decode("utf-8", "backslashreplace").partition("=")
        records[name] = value
    return records


def _member(
    info: tarfile.TarInfo, extended: dict[str, str], cursor: _Cursor, is_read: Callable[[str], bool]
) -> TarMember:
    """What a header and the extended ones before it say of a member, and its content if that is wanted."""
    name, offset = extended.get("path", info.name), cursor.position
    if info.type in tarfile.SUPPORTED_TYPES and not info.isreg():  # links, folders and devices have no content
        return TarMember(name, offset, problem="is a link" if info.islnk() or info.issym() else "")
    text = extended.get("size", "")
    size = int(text) if text.isdecimal() and len(text) < 19 else info.size
    if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in extended):
        return TarMember(extended.get("GNU.sparse.name", name), offset, info.size, problem="is a sparse file")
    if size > MAX_MEMBER:
        return TarMember(name, offset, size, problem=f"is larger than {MAX_MEMBER} bytes")
    return TarMember(name, offset, size, cursor.read(size) if is_read(name) else b"")
