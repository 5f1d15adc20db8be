"""Captions out of bytes, in the encodings that editors and spreadsheet programs write."""

import re

MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
"""Byte order marks; the longer ones first, which begin like others."""
WESTERN = "windows-1252"
NOT_WESTERN = re.compile(
    r"[\xc0-\xd6\xd8-\xf6\xf8-\xff]{3}"  # accented letters in a row: Cyrillic, Greek or Chinese read as Windows-1252
    r"|[^\W\d_][\xa1-\xa9\xac\xae-\xb4\xb6\xb8\xb9\xbc-\xbf\xd7\xf7][^\W\d_]"  # a sign in a word: Central European
    r"|[a-z][\u0160\u0152\u017d\u0178\u0192\u02c6\u02dc\u2020\u2021\u2030\u2039]"  # a capital behind it: Mac Roman
    r"|[\u201a\u0192][^\x00-\x7f]"  # Japanese
)
"""What no text in a Western European language holds."""


class UnreadableTextError(ValueError):
    """Bytes that are no text, or in an unknown encoding; ``line`` is where, counted from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}; save the file as UTF-8")
        self.line = line


def decode_text(data: bytes) -> tuple[str, str]:
    """Text of a file: UTF-8, UTF-16 or UTF-32 with a byte order mark, or Windows-1252 (Latin-1).

    Windows-1252 has no mark. It is taken for bytes that are no UTF-8, unless what comes out is in no Western language.

    Returns:
        The text without its mark, and the name of the encoding.

    Raises:
        UnreadableTextError: anything else.
    """
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "ignore").count("\n")
        refusal = UnreadableTextError(before + 1, f"byte 0x{data[error.start]:02x} is no {encoding.upper()}")
        if encoding != "utf-8":
            raise refusal from None
        try:
            text, encoding = data.decode(WESTERN), WESTERN
        except UnicodeDecodeError:
            raise refusal from None
        if NOT_WESTERN.search(text):
            raise refusal from None
    if "\0" in text:
        raise UnreadableTextError(text[: text.index("\0")].count("\n") + 1, "a NUL, as in UTF-16 without its mark")
    return text, encoding


def split_captions(text: str) -> tuple[str, ...]:
    """The captions of a .txt file or member: one a line. A line ends at a line feed and at nothing else."""
    return tuple(line.strip() for line in text.split("\n") if line.strip())
