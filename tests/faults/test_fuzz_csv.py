"""Tables as programs, people and damage write them: every pair with its own words, or one line that says why not."""

import csv
import io
import os
import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gapless.data.files import csv_pairs
from gapless.errors import DataError

EXAMPLES = (30_000 if os.environ.get("GAPLESS_FAULTS") == "full" else 2_000) // 2
"""Of each of the two tests."""
WORDS = (
    "a dog",
    "red,",
    '"Stop"',
    '"',
    "\t",
    ";",
    "two\nlines",
    "café",
    "\u2028",
    "\v",
    "\x85",
    " ",
    "",
    "it's",
    "\\",
    "a.png",
)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252")
SEPARATORS = (",", "\t", ";", "|")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "table.csv"


def fuzzed(test):
    options = settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    return options(given(st.integers(0, 2**64))(test))


def rows_of(chance: random.Random, encoding: str) -> list[tuple[str, str]]:
    words = [w for w in WORDS if encoding != "cp1252" or w not in ("\u2028", "\x85")]
    captions = ["".join(chance.choices(words, k=chance.randint(1, 4))) for _ in range(chance.randint(1, 8))]
    return [(f"images/{i}.png", caption) for i, caption in enumerate(captions)]


def outcome(table: Path, separator: str) -> list[tuple[str, str]] | str:
    """The pairs, or what is said of the table."""
    try:
        pairs = csv_pairs(table, "filepath", "title", separator)
    except DataError as error:
        return str(error)
    return [(pair.key, caption) for pair in pairs for caption in pair.captions]


@fuzzed
def test_what_is_written_is_read_or_named(table: Path, seed: int) -> None:
    chance = random.Random(seed)
    encoding, separator = chance.choice(ENCODINGS), chance.choice(SEPARATORS)
    rows = rows_of(chance, encoding)
    buffer = io.StringIO(newline="")
    header = ("filepath", "title")
    turned = chance.random() < 0.3
    quoted = chance.random() < 0.6
    if quoted:
        writer = csv.writer(buffer, delimiter=separator, lineterminator=chance.choice(("\n", "\r\n")))
        writer.writerows(row[::-1] if turned else row for row in (header, *rows))
    else:  # as people do it, without quotation marks
        rows = [(name, text.replace("\n", " ")) for name, text in rows]  # a line break would begin another row
        buffer.write("\n".join(separator.join(row[::-1] if turned else row) for row in (header, *rows)) + "\n")
    table.write_bytes(buffer.getvalue().encode(encoding))
    found = outcome(table, separator)
    if isinstance(found, str):
        assert "\n" not in found
        assert "line " in found
        return
    assert [name for name, _ in found] == [name for name, _ in rows]
    # Without quotation marks nobody can tell whether those around a cell, or empty cells behind it, belong to it.
    behind = re.compile(rf"[\s{re.escape(separator)}]+$")
    texts = [[text if quoted else behind.sub("", text.replace('"', "")) for _, text in t] for t in (found, rows)]
    assert texts[0] == texts[1]


@fuzzed
def test_damage_is_read_or_named(table: Path, seed: int) -> None:
    chance = random.Random(seed)
    encoding, separator = chance.choice(ENCODINGS), chance.choice(SEPARATORS)
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=separator).writerows([("filepath", "title"), *rows_of(chance, encoding)])
    data = bytearray(buffer.getvalue().encode(encoding))
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data))
        data[place : place + chance.randint(0, 2)] = bytes([chance.choice((0, 10, 13, 34, 9, 44, 128, 255, 233))])
    table.write_bytes(data)
    found = outcome(table, separator)
    if isinstance(found, str):
        assert "\n" not in found
    else:
        "".join(name + text for name, text in found).encode()


def test_plain_tables_are_read_and_not_refused(table: Path) -> None:
    rows = [(f"images/{i}.png", f'caption {i}, with "marks" and\ntwo lines') for i in range(50)]
    for encoding in ENCODINGS:
        for separator in SEPARATORS:
            buffer = io.StringIO(newline="")
            csv.writer(buffer, delimiter=separator).writerows([("filepath", "title"), *rows])
            table.write_bytes(buffer.getvalue().encode(encoding))
            assert outcome(table, separator) == rows
