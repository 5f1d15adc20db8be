"""Configuration trees and command lines of any kind: a configuration, or one line that says why not."""

import os
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gapless.config import Config, EvalPlan, flatten, parser_of, read_arguments
from gapless.config.overlays import read_file
from gapless.config.rules import check_config
from gapless.decode.captions.config import CaptionConfig, check_caption_config
from gapless.errors import ConfigError

FULL = os.environ.get("GAPLESS_FAULTS") == "full"
FILES = 30_000 if FULL else 2_000
"""Files of any bytes."""
PARSED = 30_000 if FULL else 40
"""Of each of the two tests that parse: one parse takes 50 ms."""
KINDS: dict[type, Any] = {Config: check_config, CaptionConfig: check_caption_config, EvalPlan: None}
KEYS = {kind: sorted(flatten(asdict(kind()))) for kind in KINDS}
GROUPS = {kind: sorted({key.rpartition(".")[0] for key in keys if "." in key}) for kind, keys in KEYS.items()}
ODD = ("", "~", "~/x", "${NOT_SET}", "${HOME}", "\0", "null", "1e400", "0x1f", "first", "[", "{}", "\t", "é", "? ")
NAMES = st.text(max_size=4) | st.sampled_from(("from", "to", "scale", "layers"))
SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(10**25), 10**25), st.integers(-3, 3), st.floats()),
    *(st.text(max_size=8), st.sampled_from(ODD)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
PIECES = (
    *(b"a: ", b"seed: 1\n", b"- ", b"{", b"}", b"[", b"]", b"&x ", b"*x", b"!!python/name:os ", b"!!binary ", b"<<: "),
    *(
        b"\t",
        b"\n",
        b"  ",
        b"'",
        b'"',
        b"|\n",
        b"%YAML 9\n",
        b"---\n",
        b"...\n",
        b"? ",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\0",
    ),
    *(b"\0", b"#", b"2026-01-01", b"0o7", b"1e3", b"data:\n  ", b"null", b"1: ", b"!!set ", b"=", b"!!omap "),
)


def fuzzed(examples: int) -> Any:
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


def refusal(kind: type, arguments: list[str]) -> tuple[Any, str]:
    """The configuration, or what is said against it."""
    try:
        config = read_arguments(kind, arguments)
        if KINDS[kind] is not None:
            KINDS[kind](config)
    except ConfigError as error:
        return None, str(error)
    return config, ""


def is_line(text: str) -> bool:
    return 0 < len(text) < 600 and "\n" not in text


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "config.yaml"


def test_files_of_any_bytes(file):
    for seed in range(FILES):
        chance = random.Random(seed)
        content = b"".join(chance.choices(PIECES, k=chance.randint(0, 12)))
        file.write_bytes(content if seed % 4 else content + chance.randbytes(3))
        try:
            assert isinstance(read_file(str(file)), dict)
        except ConfigError as error:
            if not (is_line(str(error)) and str(error).startswith("config: ")):
                pytest.fail(f"{content!r}: {error}")


@st.composite
def trees(draw: st.DrawFn, kind: type) -> dict[str, Any]:
    """A few keys, known and not, at any depth, with values of any kind."""
    tree: dict[str, Any] = {}
    known = st.sampled_from(KEYS[kind]) | st.sampled_from(GROUPS[kind])
    for key in draw(st.lists(known | known.map(lambda k: f"{k}x") | st.text(max_size=6), max_size=3)):
        node = tree
        *parents, last = key.split(".")
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        node[last] = draw(VALUES)
    return tree


@fuzzed(PARSED)
@given(data=st.data(), kind=st.sampled_from(list(KINDS)))
def test_trees(file, data, kind):
    file.write_text(yaml.safe_dump(data.draw(trees(kind)), allow_unicode=True), encoding="utf-8", errors="replace")
    config, said = refusal(kind, [f"--config={file}"])
    assert config is not None or is_line(said)
    if config is not None and kind is not EvalPlan:  # what was read starts the same run again
        file.write_text(yaml.safe_dump(plain(asdict(config)), allow_unicode=True), encoding="utf-8")
        assert refusal(kind, [f"--config={file}"]) == (config, "")


def plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(value) for value in tree] if isinstance(tree, list | tuple) else tree


@st.composite
def command_lines(draw: st.DrawFn, kind: type) -> list[str]:
    options = [text for text in parser_of(kind)._option_string_actions if text not in ("-h", "--help")]
    known = st.sampled_from(options)
    texts = st.text(max_size=6) | VALUES.map(str) | VALUES.map(lambda v: yaml.safe_dump(v, default_flow_style=True))
    words: list[str] = []
    for key in draw(st.lists(known | known.map(lambda k: f"{k}.x") | st.text(max_size=5), max_size=4)):
        value = draw(texts)
        words += draw(st.sampled_from(([f"{key}={value}"], [key, value], [key], [value])))
    return [word for word in words if "print_config" not in word and "help" not in word and word != "-h"]


@fuzzed(PARSED)
@given(data=st.data(), kind=st.sampled_from(list(KINDS)))
def test_command_lines(data, kind):
    config, said = refusal(kind, data.draw(command_lines(kind)))
    assert config is not None or is_line(said)
