import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from gapless.config import arguments as kinds
from gapless.config.parsing import parse_arguments
from gapless.errors import ConfigError

LARGEST = 2**63 - 1


def parsed(kind, *typed):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--key", type=kind)
    parser.add_argument("--config", action="config")
    return parse_arguments(parser, list(typed)).key


@pytest.mark.parametrize(
    ("name", "works", "fails", "words"),
    [
        ("PositiveInteger", ["1", str(LARGEST)], ["0", "-1", "1.5", "x", "true", str(LARGEST + 1)], "at least 1"),
        ("NonNegativeInteger", ["0", "7"], ["-1", "nan", "1" * 30], "0 or more"),
        ("AtLeastTwo", ["2"], ["1"], "at least 2"),
        ("Seed", ["0", str(LARGEST)], ["-1", "12345678901234567890123"], "from 0 to 2^63 - 1"),
        ("PositiveNumber", ["1e-300", "3"], ["0", "-0.0", "inf", "nan", "1" + "0" * 400], "finite number above 0"),
        ("NonNegativeNumber", ["0", "1e38"], ["-1e-9", "inf", "nan"], "finite number, 0 or more"),
        ("FiniteNumber", ["-3", "0.5"], ["inf", "-inf", "nan", "x"], "a finite number"),
        ("ClosedUnitInterval", ["0", "1"], ["-0.1", "1.1", "nan"], "from 0 to 1"),
        ("OpenUnitInterval", ["0.5"], ["0", "1", "nan"], "between 0 and 1"),
        ("FractionAboveZero", ["1", "0.1"], ["0", "2"], "above 0 and at most 1"),
        ("FractionBelowOne", ["0", "0.9"], ["1", "-1"], "from 0 up to but not 1"),
        ("UpToHalf", ["0", "0.5"], ["0.6", "-0.1"], "from 0 to 0.5"),
    ],
)
def test_ranges(name, works, fails, words):
    kind = getattr(kinds, name)
    for text in works:
        value = parsed(kind, f"--key={text}")
        assert float(value) == float(text)
        assert type(value) in (int, float)  # YAML and torch's files know no other numbers
        assert parsed(kind | None, f"--key={text}") == value
    for text in fails:
        for each, null in ((kind, ""), (kind | None, ", or null")):
            with pytest.raises(ConfigError) as caught:
                parsed(each, f"--key={text}")
            output = str(caught.value)
            assert output.startswith(f"key: {text[:77]}")
            assert words in output
            assert output.endswith(null)
            assert "\n" not in output


def test_numbers_that_a_file_holds(tmp_path):
    (tmp_path / "c.yaml").write_text("key: .inf\n")
    with pytest.raises(ConfigError, match=r"^key: Infinity does not work, it must be a finite number$"):
        parsed(kinds.FiniteNumber, f"--config={tmp_path / 'c.yaml'}")
    (tmp_path / "c.yaml").write_text("key: 1e-5\n")
    assert parsed(kinds.FiniteNumber, f"--config={tmp_path / 'c.yaml'}") == 1e-5
    assert math.isfinite(parsed(kinds.FiniteNumber, "--key=-1e308"))


@pytest.mark.parametrize("kind", [Path, Path | None, kinds.Location, kinds.Location | None])
def test_home_and_variables_of_paths(kind, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/mnt/data")
    monkeypatch.delenv("NOTHING", raising=False)
    plain = Path if kind in (Path, Path | None) else str
    for text, meant in (
        ("~/a", "/home/me/a"),
        ("${DATA}/b~", "/mnt/data/b~"),
        ("a/~/$DATA", "a/~/$DATA"),
        ("x/{00..03}.tar", "x/{00..03}.tar"),
        ("17", "17"),
    ):
        assert parsed(kind, f"--key={text}") == plain(meant)
    for text, output in (
        ("${NOTHING}/a", r"^key: the environment variable NOTHING is not set \(in \$"),
        ("a\0", "NUL"),
    ):
        with pytest.raises(ConfigError, match=output):
            parsed(kind, f"--key={text}")


def test_home_inside_of_addresses(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for text, meant in (
        ("local-dir:~/export", "local-dir:/home/me/export"),
        ("~/0.tar::~/1.tar", "/home/me/0.tar::/home/me/1.tar"),
        ("pipe:cat ~/${x}.tar", "pipe:cat ~/${x}.tar"),  # its shell does it
    ):
        assert parsed(kinds.Location, f"--key={text}") == meant
    with pytest.raises(ConfigError, match="^key: the path is empty"):
        parsed(Path, "--key=")


def test_separators():
    assert [parsed(kinds.Separator, f"--key={text}") for text in (",", ";", "\\t", "\t", "3", "|")] == [
        *(",", ";", "\t", "\t", "3", "|")
    ]
    for text in ("", "ab", "\n", "\\x"):
        with pytest.raises(ConfigError, match="^key: .* one character"):
            parsed(kinds.Separator, f"--key={text}")


def test_types_inside_of_others_and_in_help(capsys):
    @dataclass
    class Tree:
        pair: tuple[kinds.ClosedUnitInterval, kinds.ClosedUnitInterval] = (0.0, 1.0)
        """Two shares."""
        weights: dict[str, kinds.FiniteNumber] = field(default_factory=dict)
        """Weights."""

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Tree, None)
    for typed in ("--pair=[0, 2]", "--weights={a: .nan}", "--weights.a=inf"):
        with pytest.raises(ConfigError, match=r"^(pair|weights): (2|nan|inf) does not work, it must be"):
            parse_arguments(parser, [typed])
    assert type(parse_arguments(parser, ["--weights.a=2"]).weights["a"]) is float
    with pytest.raises(SystemExit):
        parse_arguments(parser, ["--help"])
    assert "ClosedUnitInterval" in capsys.readouterr().out
