"""Everything wrong that a user can type or feed: the documented code, one line, nothing left or changed."""

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gapless.cli import VERBS
from tests.faults.inputs import draw_inputs
from tests.runs import outcome, run

TABLE = Path(__file__).with_name("bad_input.txt")
SHORT = {"T": "train --config tiny.yaml", "D": ""}


def rows() -> list[tuple[int, str, str]]:
    """Code, words and command of every row."""
    lines = (line for line in TABLE.read_text().splitlines() if line and not line.startswith("#"))
    parted = (line.split(" | ", 2) for line in lines)
    return [(int(code), words, command) for code, words, command in parted]


def arguments_of(command: str) -> list[str]:
    words = shlex.split(command.replace("\\0", "\\\\0"))
    if words[0] == "T":
        words = [*SHORT["T"].split(), *words[1:]]
    elif words[0] == "D":
        words = [words[1], "--images", "x.npy", "--texts", "y.npy", *words[2:]]
    return [word.replace("\\0", "\0") for word in words]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder of all rows, with a run of seconds in it."""
    place = tmp_path_factory.mktemp("bad")
    draw_inputs(place)
    with contextlib.chdir(place) if hasattr(contextlib, "chdir") else pytest.MonkeyPatch.context() as patch:
        if patch is not None:
            patch.chdir(place)
        run("train", "--config", "tiny.yaml", "--output=.", "--name=run")
        sys.path.insert(0, str(place))
        yield place
        sys.path.remove(str(place))


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if "__pycache__" not in path.parts:
            facts = path.lstat()
            found[str(path.relative_to(folder))] = (facts.st_size, facts.st_mtime_ns) if path.is_file() else (0, 0)
    return found


@pytest.mark.parametrize(("code", "words", "command"), rows(), ids=[command for *_, command in rows()])
def test_bad_input(folder, code, words, command):
    before = state_of(folder)
    found, out, err = outcome(*arguments_of(command))
    lines = [line for line in err.splitlines() if line.startswith("gapless: ")]
    assert (found, len(lines)) == (code, 1), (out, err)
    assert lines[0].startswith("gapless: error: ")
    assert words in lines[0]
    assert "Traceback" not in out + err
    assert err.endswith(f"{lines[0]}\n")
    assert len(lines[0]) < 700
    assert state_of(folder) == before


def test_every_verb_has_rows():
    output = [shlex.split(command.replace("T ", SHORT["T"] + " ", 1))[:3] for *_, command in rows()]
    for verb in VERBS:
        assert sum(" ".join(words).removeprefix("D ").startswith(verb) for words in output) >= 2, verb
    assert len(rows()) >= 200


def test_the_table_would_notice(folder):
    code, _, err = outcome("gap", "--images", "x.npy", "--texts", "y.npy", "--json")
    assert (code, err) == (0, "")
    assert os.fspath(folder) == os.getcwd()
