"""Killed at any file operation, a command that is given again ends as if nothing had happened.

``make test`` takes a few operations of each command, drawn at random; ``make faults`` takes all of them.
"""

import fcntl
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from tests.data.pictures import picture
from tests.faults.crash import MODES, contents, killed_after, killed_at, operations
from tests.runs import run, tiny_config, write_config

FULL = os.environ.get("GAPLESS_FAULTS") == "full"
KILLS = int(os.environ.get("GAPLESS_FAULTS_KILLS", 10**9 if FULL else 2))
"""Kills of each command, at most."""
TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
SMALL = {
    "model__architecture": TINY,
    "data__train_samples": 32,
    "data__val_samples": 8,
    "optim__ema_decay": 0.9,
    "optim__schedule": "constant",
    "checkpoint__keep_last": 1,
}
CAPTIONS = {
    "name": "captioner",
    "output": "runs",
    "features": {"path": "store", "batch_size": 32, "fraction": 0.02},
    "decoder": {"architecture": {"n_layer": 1, "n_head": 1, "n_embd": 8}, "vocab_size": 300, "prefix_length": 2},
    "train": {"epochs": 1, "log_every": 1},
    "checkpoint": {"every_minutes": None, "every_steps": 2, "best_metric": "val/loss", "best_mode": "min"},
}
COMMANDS = {
    "train": ["train", "--config", "runs.yaml"],
    "resume": ["train", "--config", "runs.yaml", "--name=begun"],
    "eval": ["eval", "runs/done", "--datasets=[val]", "--workers=0"],
    "export": ["export", "runs/done", "--checkpoint=best", "--output=exported"],
    "prepare": [
        "prepare",
        "folder",
        "--path=pictures",
        "--all",
        "--output=shards",
        "--samples_per_shard=5",
        "--workers=0",
    ],
    "caption embed": ["caption", "embed", "runs/done", "--data.workers=0", "--splits=[train, val]", "--output=store2"],
    "caption train": ["caption", "train", "--config", "captions.yaml"],
}
if FULL:  # its runs are processes of their own, which take seconds to begin
    COMMANDS["sweep"] = ["sweep", "sweep.yaml"]
SWEEP = """
program: gapless
method: grid
metric: {name: val/alignment, goal: minimize}
parameters:
  seed: {values: [1, 2]}
command: ["${interpreter}", -m, gapless, train, --config, runs.yaml, "--name=seed-{hash}", "${args}"]
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A folder in which every command can begin."""
    folder = tmp_path_factory.mktemp("start")
    before = os.getcwd()
    os.chdir(folder)
    try:
        write_config(tiny_config(Path("runs"), **SMALL, name="trained"), folder / "runs.yaml")
        write_config(CAPTIONS, folder / "captions.yaml")
        run("train", "--config", "runs.yaml", "--name=done")
        run("train", "--config", "runs.yaml", "--name=begun", "--train.epochs=1")
        run("caption", "embed", "runs/done", "--data.workers=0", "--splits=[train, val]", "--output=store")
        (folder / "sweep.yaml").write_text(SWEEP)
        (folder / "pictures").mkdir()
        for i in range(12):
            (folder / "pictures" / f"{i}.png").write_bytes(picture(seed=i))
            (folder / "pictures" / f"{i}.txt").write_text(f"caption {i}")
    finally:
        os.chdir(before)
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_anywhere_the_same_command_ends_as_if_nothing_had_happened(tmp_path, monkeypatch, start, counted, name):
    arguments = COMMANDS[name]
    place = _copy(start, tmp_path / "place")
    count = operations(arguments, place, tmp_path / "log")
    expected = contents(place)
    assert expected != contents(start)
    points = [(number, mode) for mode in MODES for number in range(1, count + 1)]
    for number, mode in random.Random(name).sample(points, min(KILLS, len(points))):
        shutil.rmtree(place)
        _copy(start, place)
        assert killed_at(arguments, place, number, mode)
        _wait_for_runs(place)
        with monkeypatch.context() as there:
            there.chdir(place)
            run(*arguments)
        assert contents(place) == expected, (mode, (tmp_path / "log").read_text().splitlines()[number - 1])
        counted(f"killed at a file operation: {name}")


def test_killed_at_any_moment_a_run_ends_as_if_nothing_had_happened(tmp_path, monkeypatch, start, counted):
    place = _copy(start, tmp_path / "place")
    began = time.monotonic()
    operations(COMMANDS["train"], place, tmp_path / "log")
    length, expected = time.monotonic() - began, contents(place)
    moments = random.Random(0)
    for _ in range(min(50, KILLS - 1)):
        shutil.rmtree(place)
        _copy(start, place)
        killed_after(COMMANDS["train"], place, moments.uniform(0, length))
        with monkeypatch.context() as there:
            there.chdir(place)
            run(*COMMANDS["train"])
        assert contents(place) == expected
        counted("killed at a random moment: train")


def _wait_for_runs(place):
    """Runs that a killed command started save and end by themselves."""
    for path in place.glob("runs/*/lock"):
        with path.open("a") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)


def _copy(start, folder):
    shutil.copytree(start, folder, symlinks=True)
    return folder
