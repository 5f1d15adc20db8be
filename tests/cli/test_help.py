"""What ``--help`` of every verb says: sentences or noun phrases that are read once."""

import re

import pytest

from gapless.cli.verbs import VERBS, overview, parser_of

OF_THE_PARSER = re.compile(r"help|print_config|print_shtab|.*\.help")
"""Arguments of jsonargparse, which words their texts."""
TEXTS = [
    (verb, action.dest, " ".join(action.help.split()))
    for verb in VERBS
    for action in parser_of(verb)._actions
    if not OF_THE_PARSER.fullmatch(action.dest)
]


def faults(text):
    """What keeps a text from being read once."""
    sentences = re.split(r"(?<=[.;?]) ", text)
    return [
        *(["no capital at the beginning"] if not re.match("[A-Z]", text) else []),
        *(["no period at the end"] if not text.endswith(".") else []),
        *([f"the fragment {part!r}" for part in sentences if part.startswith("Of ")]),
        *([f"{len(part.split())} words in {part!r}" for part in sentences if len(part.split()) > 25]),
        *([f"a flag in {text!r}" for _ in re.findall(r"(?<![\w-])--[a-z]", text)]),
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_every_argument_is_explained(verb):
    texts = {name: text for of, name, text in TEXTS if of == verb}
    assert texts
    assert {name: faults(text) for name, text in texts.items() if faults(text)} == {}
    assert faults(parser_of(verb).description) == []


@pytest.mark.parametrize(
    "text", ["", "lower case.", "No period", "Beams. Of beam.", "Of beam.", f"Too {'many ' * 24}words.", "As --data."]
)
def test_the_test_would_notice(text):
    assert faults(text)


def test_the_overview_has_every_verb_with_its_purpose():
    lines = overview().splitlines()
    verbs = [
        *("train", "doctor", "eval", "gap", "close", "robustness", "simulate"),
        *("caption embed", "caption convert", "caption train", "caption eval"),
        *("prepare", "export", "sweep", "report", "reproduce", "launch"),
    ]
    listed = [line for line in lines if line.startswith("  ") and not line.startswith("   ")]
    assert [line[2:17].strip() for line in listed] == verbs
    assert "  close           fit a map that closes the gap, and apply it" in lines
    assert "            75 stopped by a signal, and the same command continues, 143 ended by SIGTERM" in lines
