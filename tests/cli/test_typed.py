"""Texts below the command line name arguments, and the command line says how they are typed."""

import ast
import re
from pathlib import Path

import pytest

import gapless
from gapless.cli.typed import as_typed
from gapless.cli.verbs import parser_of
from tests.runs import run, tiny_config, write_config

ROOT = Path(gapless.__file__).parent
LOGS = ("info", "warning", "error", "debug", "exception")


@pytest.mark.parametrize(
    ("verb", "text", "typed"),
    [
        ("train", "Use fresh=true or name=ANOTHER", "Use --fresh or --name=ANOTHER"),
        ("train", "it is damaged; resume=older continues", "it is damaged; --resume=older continues"),
        ("train", "give a folder as model.name=local-dir:FOLDER", "give a folder as --model.name=local-dir:FOLDER"),
        ("eval", "fresh=true is no argument of eval", "fresh=true is no argument of eval"),
        ("eval", "root: x needs a folder (root=/data/{dataset}).", "root: x needs a folder (--root=/data/{dataset})."),
        ("reproduce", "2 are missing (allow_missing=true)", "2 are missing (--allow_missing)"),
        ("train", "runs/seed=3 and a 'name=x' and x.seed=1", "runs/seed=3 and a 'name=x' and x.seed=1"),
    ],
)
def test_arguments_as_they_are_typed(verb, text, typed):
    assert as_typed(text, parser_of(verb)) == typed


def test_errors_and_logs_reach_a_user_so(tmp_path):
    path = str(write_config(tiny_config(tmp_path, train__epochs=1), tmp_path / "c.yaml"))
    run("train", "--config", path, "--data.train_samples=32")
    line = run("train", "--config", path, "--data.train_samples=32", "--seed=9", code=2)
    assert line.endswith("began with another configuration: seed was 3, is 9. Use --fresh or --name=ANOTHER\n")


def flags_in(tree):
    """Flags in the words of errors and of logs."""
    for node in ast.walk(tree):
        logs = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOGS
        if logs or isinstance(node, ast.Raise):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield from re.findall(r"(?<![\w-])--[a-z][\w-]*", part.value)


def test_no_error_and_no_log_below_the_command_line_names_a_flag():
    assert list(flags_in(ast.parse("raise E(f'{x}: use --fresh')"))) == ["--fresh"]
    files = [path for path in ROOT.rglob("*.py") if path.parent.name != "cli"]
    assert len(files) > 100
    assert [(path.name, flag) for path in files for flag in flags_in(ast.parse(path.read_text(encoding="utf-8")))] == []
