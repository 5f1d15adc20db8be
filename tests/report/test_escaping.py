import io
import json
import re

import pytest
from rich.console import Console

from gapless.report import Cell, Table
from gapless.report.escaping import chart, latex, markdown, script, terminal
from tests.report.hostile import HOSTILE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a<b>&", "a&lt;b&gt;&amp;"),
        ("a|b^c~d", r"a\|b\^c\~d"),
        ("val/centroid_distance", "val/centroid_distance"),
        ("_x_ a_ _b", r"\_x\_ a\_ \_b"),
        (r"\`*[x](y)#${}!", r"\\\`\*\[x\](y)\#\$\{\}\!"),
        ("two\nlines\r\tand\x1b[31m\udcff", r"two lines  and\\x1b\[31m\\udcff"),
        ("\u00e9 \u00b1 \u2192", "\u00e9 \u00b1 \u2192"),
    ],
)
def test_markdown(text, expected):
    assert markdown(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"a\b", r"a\textbackslash{}b"),
        ("<>|^~", r"\textless{}\textgreater{}\textbar{}\textasciicircum{}\textasciitilde{}"),
        ("_{}#%&$", r"\_\{\}\#\%\&\$"),
        ("[t]*", "{[}t{]}{*}"),
        ("two\nlines", "two lines"),
        ("0.5 \u00b1 0.1 \u2192", r"0.5 $\pm$ 0.1 $\to$"),
    ],
)
def test_latex(text, expected):
    assert latex(text) == expected


@pytest.mark.parametrize("text", HOSTILE)
def test_the_console_shows_what_was_given(text):
    out = io.StringIO()
    Console(file=out, width=200).print(Table(text, ["", text], [[Cell(text), Cell(text, best=True)]]).terminal())
    assert " ".join(out.getvalue().split()).count(" ".join(text.split())) >= 3
    assert terminal("a\x1b[31m\nb").plain == "a\\x1b[31m\nb"


@pytest.mark.parametrize("text", HOSTILE)
def test_scripts_hold_no_tags(text):
    found = script({text: [text]})
    assert not set("<>&") & set(found)
    assert json.loads(found) == {text: [text]}


def test_a_table_keeps_its_cells():
    rows = [[Cell(text), Cell(text, best=True)] for text in HOSTILE]
    table = Table(HOSTILE[0], ["", HOSTILE[9]], rows, HOSTILE[2])
    for line in table.markdown().splitlines():
        assert len(re.findall(r"(?<!\\)\|", line)) == 3
    section = table.section().split("\n")
    assert (section[0], section[-2]) == (f"## {markdown(HOSTILE[0])}", markdown(HOSTILE[2]))
    output = table.latex()
    assert len(re.findall(r"(?<!\\)&", output)) == 1 + len(rows)
    assert len(re.findall(r"(?<!\\){", output)) == len(re.findall(r"(?<!\\)}", output))
    assert not re.search(r"(?<!\\)[#%^~]|\\\\\n[\[*]", output)


def test_plotly_reads_no_tags_and_no_entities():
    assert chart("a<b>&lt;") == "a&lt;b&gt;&amp;lt;"


def test_numbers_that_json_has_not_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        script([float("nan")])


def test_the_console_takes_a_style():
    assert terminal("[b]:smile:", "bold").style == "bold"
    assert terminal("[b]:smile:", "bold").plain == "[b]:smile:"
