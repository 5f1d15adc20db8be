import json
from pathlib import Path

import psutil
import pytest
import yaml

from gapless.sweep import command_of, config_of, load_sweep
from gapless.sweep.search import grid
from tests.runs import run, terminated, tiny_config, write_config
from tests.sweep.trees import quick_sweep, record

SWEEPS = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yaml"))
NAMED = {"name": {"values": ["a", "b"]}}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_our_files_go_through_accelerate_and_train_what_exists(path):
    sweep = load_sweep(path)
    first = next(grid(sweep)) if sweep.method == "grid" else {p.name: p.knobs["min"] for p in sweep.parameters}
    command = command_of(sweep, first, Path("args.json"))
    assert command[:5] == ["/usr/bin/env", "accelerate", "launch", "-m", "gapless"]
    config = config_of(command)
    assert config.tracking.to == ["wandb"]
    assert "{hash}" in config.name  # or all runs would share one folder


def test_a_real_run_is_trained_offline_and_found_again_without_the_record(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    base = write_config(tiny_config(tmp_path / "runs", train__epochs=1), tmp_path / "base.yaml")
    command = ["${env}", "${interpreter}", "-m", "gapless", "train", f"--config={base}", "--name=s-{hash}"]
    tree = {
        "method": "grid",
        "metric": {"name": "val/centroid_distance", "goal": "minimize"},
        "parameters": {"optim": {"parameters": {"lr": {"value": 0.002}}}, "loss.preset": {"values": ["cua"]}},
        "command": [*command, "--tracking.to=[wandb]", "${args}"],
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(tree))
    arguments = ("sweep", str(path), f"--record={tmp_path / 'record.json'}", "--jobs=2")
    output = run(*arguments)
    (trial,) = record(tmp_path)
    folder = Path(trial["folder"])
    assert trial["state"] == "finished"
    assert f"{trial['value']:.4f}" in output
    assert list(folder.glob("wandb/offline-run-*"))
    assert yaml.safe_load((folder / "config.yaml").read_text())["optim"]["lr"] == 0.002
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert trial["value"] == last["val/centroid_distance"]
    assert (tmp_path / "record.logs" / f"{folder.name}.log").is_file()
    assert len(list((tmp_path / "runs").iterdir())) == 1  # nothing beside the run that a report would stumble over
    stamp = (folder / "metrics.jsonl").stat().st_mtime_ns
    (tmp_path / "record.json").unlink()
    run(*arguments)
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == stamp


def test_failed_runs_are_told_and_tried_again(tmp_path):
    arguments = quick_sweep(tmp_path, NAMED | {"optim.lr": {"value": 0.1}, "seed": {"value": 1003}})
    assert "2 of 2 runs failed" in run(*arguments, code=3)
    assert [t["state"] for t in record(tmp_path)] == ["failed", "failed"]
    assert "failed" in run(*arguments, "--allow_missing")


def test_a_run_that_is_refused_ends_the_sweep_and_leaves_no_record(tmp_path):
    parameters = {"name": {"values": ["a", "b"]}, "optim.lr": {"value": 0.1}, "seed": {"value": 1002}}
    arguments = quick_sweep(tmp_path, parameters)
    assert "a was refused, as its own last line says" in run(*arguments, code=2)
    assert not (tmp_path / "record.json").exists()
    assert "gapless: error: seed of no use" in run(*arguments, "--jobs=2", code=2)
    quick_sweep(tmp_path, parameters | {"seed": {"value": 5}})
    run(*arguments)
    assert [t["state"] for t in record(tmp_path)] == ["finished", "finished"]


def test_a_slip_in_one_value_is_found_before_the_first_run(tmp_path):
    parameters = {"optim.lr": {"values": [0.1, -1]}, "name": {"values": ["a", "b"]}}
    output = run(*quick_sweep(tmp_path, parameters), code=2)
    assert "optim.lr: -1 does not work" in output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sweep.yaml", "trainer.py"]


def test_runs_in_one_folder_are_refused(tmp_path):
    output = run(*quick_sweep(tmp_path, {"optim.lr": {"values": [0.1, 0.2]}, "name": {"value": "a"}}), code=2)
    assert "two runs would share" in output
    assert "{hash}" in output


def test_a_metric_that_is_not_logged_ends_the_sweep_after_one_run(tmp_path):
    parameters = NAMED | {"optim.lr": {"value": 0.1}}
    arguments = quick_sweep(tmp_path, parameters, metric={"name": "val/loss"})
    output = run(*arguments, code=2)
    assert "val/loss is not logged" in output
    assert "val/score, val/other" in output
    assert [t["state"] for t in record(tmp_path)] == ["finished"]
    # With the right name it goes on, and reads what is there.
    output = run(*quick_sweep(tmp_path, parameters, metric={"name": "val/other"}))
    assert [t["value"] for t in record(tmp_path)] == [0.1, 0.1]


def test_a_search_ends_at_its_target_its_cap_or_its_count(tmp_path):
    parameters = {"name": {"min": 0, "max": 10**9}, "optim.lr": {"min": 0.001, "max": 1.0}}
    assert "count: missing, or run_cap" in run(*quick_sweep(tmp_path, parameters, method="bayes"), code=2)
    arguments = quick_sweep(tmp_path, parameters, method="bayes", run_cap=4)
    run(*arguments, "--count=2")
    first = record(tmp_path)
    run(*arguments)
    assert len(record(tmp_path)) == 4
    assert record(tmp_path)[:2] == first
    target = {"name": "val/score", "goal": "maximize", "target": 0.5}
    (tmp_path / "record.json").unlink()
    run(*quick_sweep(tmp_path, parameters, method="bayes", run_cap=4, metric=target))
    assert [t["parameters"] for t in record(tmp_path)] == [first[0]["parameters"]]


def test_interrupted_and_begun_again_a_search_draws_the_same(tmp_path):
    parameters = {"name": {"min": 0, "max": 10**9}, "optim.lr": {"min": 0.001, "max": 1.0}}
    folder, other = tmp_path / "one", tmp_path / "two"
    for each in (folder, other):
        each.mkdir()
    run(*quick_sweep(folder, parameters, method="random"), "--count=4", "--jobs=2")
    for count in (1, 3, 4):
        run(*quick_sweep(other, parameters, method="random"), f"--count={count}")
    assert [t["parameters"] for t in record(folder)] == [t["parameters"] for t in record(other)]
    (other / "record.json").unlink()
    run(*quick_sweep(other, parameters, method="random"), "--count=1", "--seed=1")
    assert record(other)[0]["parameters"] != record(folder)[0]["parameters"]


def test_what_the_file_does_not_draw_any_more_is_left_out(tmp_path):
    run(*quick_sweep(tmp_path, NAMED | {"optim.lr": {"value": 0.1}}))
    run(*quick_sweep(tmp_path, {"name": {"values": ["b", "c"]}, "optim.lr": {"value": 0.1}}))
    assert [t["parameters"]["name"] for t in record(tmp_path)] == ["b", "c"]
    stamp = (tmp_path / "runs" / "b" / "metrics.jsonl").stat().st_mtime_ns
    # Another folder: the runs in the record are not those of the file.
    arguments = quick_sweep(tmp_path, {"name": {"values": ["b", "c"]}, "optim.lr": {"value": 0.1}})
    text = (tmp_path / "sweep.yaml").read_text().replace(str(tmp_path / "runs"), str(tmp_path / "others"))
    (tmp_path / "sweep.yaml").write_text(text)
    run(*arguments)
    assert (tmp_path / "others" / "b" / "metrics.jsonl").is_file()
    assert (tmp_path / "runs" / "b" / "metrics.jsonl").stat().st_mtime_ns == stamp


def test_a_signal_makes_the_runs_save_and_the_same_command_goes_on(tmp_path):
    parameters = NAMED | {"optim.lr": {"value": 0.1}, "seed": {"value": 99}}
    arguments = quick_sweep(tmp_path, parameters)
    with terminated(tmp_path / "runs" / "b" / "metrics.jsonl", 1):
        assert "the sweep was stopped" in run(*arguments, "--jobs=2", code=75)
    assert all((tmp_path / "runs" / name / "saved").exists() for name in "ab")
    assert not [p for p in psutil.Process().children(recursive=True) if "trainer.py" in " ".join(p.cmdline())]
    run(*arguments)
    assert [t["state"] for t in record(tmp_path)] == ["finished", "finished"]


def test_a_signal_through_a_launcher_reaches_what_it_launched(tmp_path):
    launcher = tmp_path / "accelerate"
    launcher.write_text(
        "import subprocess, sys\nsys.exit(subprocess.run([sys.executable, *sys.argv[2:]]).returncode)\n"
    )
    arguments = quick_sweep(tmp_path, {"name": {"value": "a"}, "optim.lr": {"value": 0.1}, "seed": {"value": 99}})
    tree = yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    tree["command"] = ["${interpreter}", str(launcher), "launch", *tree["command"][1:]]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(tree))
    with terminated(tmp_path / "runs" / "a" / "metrics.jsonl", 1):
        run(*arguments, code=75)
    assert (tmp_path / "runs" / "a" / "saved").exists()
    assert [t["state"] for t in record(tmp_path)] == ["running"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--jobs=0", "jobs"),
        ("--jobs=-1", "jobs"),
        ("--count=0", "count"),
        ("--count=x", "count"),
        ("--seed=-1", "seed"),
    ],
)
def test_numbers_out_of_range_are_one_line(tmp_path, option, message):
    said = run(*quick_sweep(tmp_path, {"name": {"value": "a"}}), option, code=2)
    assert f"gapless: error: {message}" in said
    assert said.count("\n") == 1


def test_a_record_that_is_none_is_one_line(tmp_path):
    arguments = quick_sweep(tmp_path, NAMED)
    for text in ("{", "[1]", "[{}]", '[{"parameters": 1}]', "3"):
        (tmp_path / "record.json").write_text(text)
        assert "is no record of a sweep" in run(*arguments, code=3)
    assert (tmp_path / "record.json").read_text() == "3"


def test_a_program_that_is_not_there_is_one_line(tmp_path):
    arguments = quick_sweep(tmp_path, {"name": {"value": "a"}}, command=["nowhere", "train", "${args}"])
    assert "command: nowhere cannot be started" in run(*arguments, code=2)
    assert not (tmp_path / "record.json").exists()
