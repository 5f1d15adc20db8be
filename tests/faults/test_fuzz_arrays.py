"""Headers of arrays as damage or malice makes them: a matrix, or one line; never a traceback, and never much memory."""

import io
import os
import random
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gapless.errors import DataError
from gapless.geometry.files import load_embeddings

EXAMPLES = 15_000 if os.environ.get("GAPLESS_FAULTS") == "full" else 1_000
"""Of each of the two formats."""
MATRIX = np.arange(1, 25, dtype=np.float32).reshape(6, 4)
NUMBERS = (6, 4, 5, 1, 0, -1, -5, 2**31, 2**62, 2**63, -(2**63), 2**64, 10**30, True, None, 1.5, "4")
TYPES = (
    *(
        "<f4",
        ">f8",
        "<f2",
        "<i4",
        "|i1",
        "|u1",
        "|b1",
        "|O",
        "<U3",
        "<c8",
        "<M8[s]",
        "|V4",
        "<f3",
        "",
        "f4,f4",
        "O4",
        5,
    ),
    *([("a", "<f4")], [("a", "|O")], [("a", "<f4", (2, -1))], [("", "")], [], None, ("<f4", (2,)), "<U999999999999"),
)
TEXTS = ("(" * 300, "{" * 3000, "-" * 5000 + "1", "9" * 5000, "{'shape': (1,), " * 9, "\0", "", "\n", "'" * 9)
VERSIONS = ((1, 0), (1, 0), (2, 0), (3, 0), (4, 0), (0, 255))


def header(chance):
    """The text of a header: fields right and wrong, or none at all."""
    if chance.random() < 0.1:
        return chance.choice(TEXTS)
    shape = tuple(chance.choices(NUMBERS, k=chance.randrange(4))) if chance.random() < 0.8 else MATRIX.shape
    fields = {
        "shape": shape,
        "descr": chance.choice(TYPES),
        "fortran_order": chance.choice([True, False, False, 0, "x"]),
    }
    if chance.random() < 0.2:
        fields[chance.choice(["shape", "descr", "more"])] = chance.choice(NUMBERS)
    text = list(repr(fields))
    for _ in range(chance.choice([0, 0, 1, 3])):
        text[chance.randrange(len(text))] = chance.choice("(){}[]',:-0x \x00é")
    return "".join(text)


def npy_file(chance):
    """A file with such a header, or a good one with bytes changed or cut off."""
    if chance.random() < 0.3:
        buffer = io.BytesIO()
        np.save(buffer, MATRIX)
        return edited(buffer.getvalue(), chance)
    version, text = chance.choice(VERSIONS), header(chance).encode("latin1")
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text + bytes(range(1, 97))


def npz_file(chance):
    """An archive with such a file, with bytes changed or cut off."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        archive.writestr(chance.choice(["image.npy", "image.npy", "texts.npy", "note.txt"]), npy_file(chance))
    return edited(buffer.getvalue(), chance)


def edited(data, chance):
    changed = bytearray(data)
    for _ in range(chance.choice([0, 0, 1, 2, 6])):
        changed[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(changed[: chance.randrange(len(data))] if chance.random() < 0.1 else changed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed")


@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 2**64))
@pytest.mark.parametrize("made", [npy_file, npz_file])
def test_any_file_is_unit_rows_or_one_line(folder, made, seed):
    path = folder / f"a.{made.__name__[:3]}"
    path.write_bytes(made(random.Random(seed)))
    line = None
    try:
        features, _ = load_embeddings(path, "image")
    except DataError as error:
        line = str(error)
    if line is None:
        assert features.ndim == 2
        np.testing.assert_allclose(features.norm(dim=1), 1, atol=1e-5)
    else:
        assert path.name in line
        assert "\n" not in line
        assert len(line) < 600
