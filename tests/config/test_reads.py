"""Every key of a configuration is read by the task that it belongs to."""

import ast
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

import gapless
from gapless.config import AugmentationConfig, Config, DataConfig, EvalPlan
from gapless.decode.captions.captioner import Decoding
from gapless.decode.captions.config import CaptionConfig
from gapless.decode.captions.evaluate import CaptionPlan
from tests.config.reads import fields_read, shapes_of

ROOT = Path(gapless.__file__).parent
ROOMS = {
    Config: ("train", "engine", "data", "models", "eval", "losses"),
    CaptionConfig: ("decode", "engine"),
    EvalPlan: ("eval", "data"),
    CaptionPlan: ("decode",),
}
"""Where the keys of a tree may be read."""
REFUSED = {(EvalPlan, "DataConfig", "max_bad_fraction")}
"""Keys that are not read and whose values the command line refuses (tests/cli/test_unused.py)."""


def kinds_in(kind):
    """A dataclass and those that its fields hold."""
    below = [held for hint in get_type_hints(kind).values() for held in (hint, *getattr(hint, "__args__", ()))]
    return {kind}.union(*(kinds_in(held) for held in below if is_dataclass(held)))


def test_kinds_are_found_at_every_depth():
    assert {AugmentationConfig, DataConfig} < kinds_in(Config)
    assert kinds_in(CaptionPlan) == {CaptionPlan, Decoding}


@pytest.mark.parametrize("tree", ROOMS, ids=lambda kind: kind.__name__)
def test_every_key_is_read_where_its_task_is(tree):
    files = [path for room in ROOMS[tree] for path in (ROOT / room).rglob("*.py")]
    kinds = kinds_in(tree)
    reads = fields_read(files, kinds)
    expected = {(kind.__name__, field.name) for kind in kinds for field in fields(kind)}
    assert expected - reads - {(kind, name) for of, kind, name in REFUSED if of is tree} == set()


def test_pure_rooms_import_no_configuration():
    files = [path for room in ("losses", "geometry", "eval/metrics") for path in (ROOT / room).rglob("*.py")]
    imports = [node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    modules = {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    assert "gapless.errors" in modules
    assert {name for name in modules if name and name.startswith("gapless.config")} == set()


def test_classes_of_data_and_models_keep_no_configuration():
    files = [path for room in ("data", "models") for path in (ROOT / room).rglob("*.py")]
    shapes = shapes_of([ast.parse(path.read_text(encoding="utf-8")) for path in files])
    names = {kind.__name__ for kind in kinds_in(Config)}
    assert "MapTrainData" in shapes
    kept = [(k, a) for k, shape in shapes.items() for a, text in shape.items() if names & set(re.findall(r"\w+", text))]
    assert kept == []


@pytest.mark.parametrize(
    "code",
    [
        "def f(config: Config): g(config.seed)",
        "def f(c: Config | None = None):\n    d = c or Config()\n    g(d.seed)",
        "def f(x: Config):\n    a, b = 3, with_changes(x, name='b')\n    return b.seed",
        "class A:\n  def __init__(self, config: Config):\n    self.c = config\n  def f(self): return self.c.seed",
        "@dataclass\nclass Parts:\n    config: Config\ndef f(parts: Parts): return parts.config.seed",
        "class Like(Protocol):\n    seed: int\ndef f(x: Like): return x.seed",
        "def g(c: Config): pass\nf = lambda c: c.seed",
    ],
)
def test_a_read_is_seen(tmp_path, code):
    path = tmp_path / "a.py"
    path.write_text(code)
    assert fields_read([path], [Config]) == {("Config", "seed")}


@pytest.mark.parametrize(
    "code",
    [
        "def f(other: Other): g(other.seed)",
        "def f(c: Config):\n    c = 3\n    g(c.seed)",
        "def f(x): return getattr(x, 'seed')",
        "def g(c: Config): pass\ndef f(c): return c.seed",
        "# config.seed",
    ],
)
def test_other_things_of_that_name_are_no_reads(tmp_path, code):
    path = tmp_path / "a.py"
    path.write_text(code)
    assert fields_read([path], [Config]) == set()
