import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from gapless.reproduce.sweep import command_of, config_of, load_sweep
from tests.runs import run, tiny_config, write_config

SWEEPS = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_files_are_valid_to_wandb_go_through_accelerate_and_train_what_exists(path):
    sweep = load_sweep(path)
    values = {n: (p.get("values") or [p.get("value", p.get("min"))])[0] for n, p in sweep["parameters"].items()}
    command = command_of(sweep, values)
    assert command[:5] == ["/usr/bin/env", "accelerate", "launch", "-m", "gapless"]
    config = config_of(command)
    assert config.tracking.to == ["wandb"]
    assert "{hash}" in config.name  # or all runs would share one folder


def sweep_file(tmp_path, **changes):
    """Two runs of one epoch, wandb offline."""
    base = write_config(tiny_config(tmp_path / "runs", train__epochs=1), tmp_path / "base.yaml")
    tree = {
        "method": "grid",
        "metric": {"name": "val/centroid_distance", "goal": "minimize"},
        "parameters": {"loss.preset": {"values": ["clip", "cua"]}, "train.log_every": {"value": 3}},
        "command": [
            *("${interpreter}", "-m", "gapless", "train", f"--config={base}", "--name=s-{hash}"),
            *("--tracking.to=[wandb]", "${args}"),
        ],
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(tree | changes))
    return path


def record(tmp_path):
    return json.loads((tmp_path / "record.json").read_text())


def test_a_grid_runs_offline_and_finished_runs_are_skipped(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    arguments = ("sweep", str(sweep_file(tmp_path)), "--record", str(tmp_path / "record.json"))
    told = run(*arguments)
    trials = record(tmp_path)
    assert [t["parameters"]["loss.preset"] for t in trials] == ["clip", "cua"]
    assert all(t["state"] == "finished" for t in trials)
    folders = [Path(t["folder"]) for t in trials]
    assert len(set(folders)) == 2
    for trial, folder in zip(trials, folders, strict=True):
        assert f"{trial['value']:.4f}" in told
        assert list(folder.glob("wandb/offline-run-*"))
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        assert trial["value"] == last["val/centroid_distance"]
    stamps = [(folder / "metrics.jsonl").stat().st_mtime_ns for folder in folders]
    run(*arguments)
    (tmp_path / "record.json").unlink()
    run(*arguments, "--jobs=2")
    assert [(folder / "metrics.jsonl").stat().st_mtime_ns for folder in folders] == stamps


def test_failed_runs_are_told_and_tried_again(tmp_path):
    parameters = {"data.train_samples": {"values": [96, 4]}}  # fewer than a batch
    arguments = ("sweep", str(sweep_file(tmp_path, parameters=parameters)), "--record", str(tmp_path / "record.json"))
    assert "1 of 2 runs failed" in run(*arguments, code=3)
    assert [t["state"] for t in record(tmp_path)] == ["finished", "failed"]
    assert "failed" in run(*arguments, "--allow-missing")


def test_searches_draw_as_many_runs_as_wanted(tmp_path):
    parameters = {"optim.lr": {"min": 1.0e-4, "max": 1.0e-2}}
    path = sweep_file(tmp_path, method="bayes", parameters=parameters)
    assert "--count" in run("sweep", str(path), code=2)
    run("sweep", str(path), "--count=2", "--record", str(tmp_path / "record.json"))
    rates = [t["parameters"]["optim.lr"] for t in record(tmp_path)]
    assert len(set(rates)) == 2
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "guess"}, "is no sweep of wandb: .*guess"),
        ({"command": ["${shell}", "train"]}, r"\$\{shell\} is not one of"),
        ({"command": ["python", "mine.py"]}, "does not run gapless train"),
        ({"parameters": {"optim.learning": {"values": [1]}}}, "optim.learning"),
    ],
)
def test_files_that_cannot_work_are_one_line(tmp_path, changes, told):
    path = sweep_file(tmp_path, **changes)
    assert re.search(told, run("sweep", str(path), "--record", str(tmp_path / "record.json"), code=2))


def test_macros_are_filled_in_as_wandb_does():
    sweep = {"program": "gapless", "command": ["${env}", "${interpreter}", "-m", "${program}", "train", "${args}"]}
    assert command_of(sweep, {"seed": 3, "loss.preset": "cua"}) == [
        *("/usr/bin/env", sys.executable, "-m", "gapless", "train", "--seed=3", "--loss.preset=cua")
    ]
