"""Whole runs through the command, as a user starts them."""

import json
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.data.server import serve
from tests.runs import (
    LAUNCHER,
    metrics,
    run,
    run_killed,
    run_signalled,
    run_together,
    start_ranks,
    terminated,
    tiny_config,
    wait_for,
    write_config,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The training emoji as four local shards."""
    folder = tmp_path_factory.mktemp("shards") / "emoji"
    run("prepare", "emoji", "--output", str(folder), "--samples_per_shard", "800", "--workers", "0")
    return folder


def config(tmp_path, folder="runs", **changes):
    path = tmp_path / f"{folder}.yaml"
    return write_config(tiny_config(tmp_path / folder, **changes), path), tmp_path / folder / "tiny"


def on_shards(shards):
    return {"data__source": "shards", "data__path": str(shards), "data__workers": 2}


@pytest.mark.parametrize("source", ["emoji", "shards"])
def test_killed_anywhere_a_run_ends_with_the_same_lines(tmp_path, shards, source):
    changes = {"optim__ema_decay": 0.9} | (on_shards(shards) if source == "shards" else {})
    path, whole = config(tmp_path, "whole", **changes)
    run("train", "--config", str(path))
    expected = metrics(whole)
    assert len(expected) == 12 + 3  # each step, and three evaluations
    path, broken = config(tmp_path, "broken", **changes)
    for lines in (4, 9):
        run_killed(broken / "metrics.jsonl", lines, "train", "--config", str(path))
    # The run's own config.yaml continues it, too.
    output = run("train", "--config", str(broken / "config.yaml"))
    assert "resuming" in output
    assert metrics(broken) == expected
    one, other = (load_file(r / "export" / "open_clip_model.safetensors") for r in (whole, broken))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("source", ["emoji", "shards"])
def test_stopped_by_a_signal_a_run_saves_and_ends_with_the_same_lines(tmp_path, shards, source):
    changes = {"checkpoint__every_steps": None} | (on_shards(shards) if source == "shards" else {})
    path, whole = config(tmp_path, "whole", **changes)
    run("train", "--config", str(path))
    path, stopped = config(tmp_path, "stopped", **changes)
    with terminated(stopped / "metrics.jsonl", 4):
        run("train", "--config", str(path), code=75)
    step = json.loads((stopped / "checkpoints" / "latest" / "state.json").read_text())["step"]
    assert 0 < step < 12
    output = run("train", "--config", str(path))
    assert f"step {step}" in output
    assert metrics(stopped) == metrics(whole)


def test_a_run_on_remote_shards_resumes_too(tmp_path):
    changes = {"checkpoint__every_steps": None, "data__workers": 2, "data__source": "shards", "data__shuffle_buffer": 5}
    changes |= {"data__batch_size": 6, "data__captions": "random"}
    with serve(tmp_path) as url:
        changes |= {"data__path": f"{url}/{{0..5}}.tar", "data__val_path": f"{url}/{{0..5}}.tar"}
        path, whole = config(tmp_path, "whole", **changes)
        assert "batches depend on the number of processes and workers" in run("train", "--config", str(path))
        path, stopped = config(tmp_path, "stopped", **changes)
        with terminated(stopped / "metrics.jsonl", 4):
            run("train", "--config", str(path), code=75)
        # The composition of the batches depends on the workers: another number would be another run.
        assert "data.workers was 2, is 1" in run("train", "--config", str(path), "--data.workers=1", code=2)
        run("train", "--config", str(path))
    assert metrics(stopped) == metrics(whole)
    assert metrics(whole)[0]["val/num_samples"] == 42


def test_a_best_metric_that_is_not_there_is_named(tmp_path):
    path, _ = config(tmp_path, checkpoint__best_metric="val/recall")
    output = run("train", "--config", str(path), code=2)
    assert "checkpoint.best_metric: val/recall is not among the evaluated metrics" in output
    assert "val/centroid_distance" in output


@pytest.mark.parametrize("source", ["emoji", "shards"])
def test_stopped_in_an_evaluation_a_run_begins_with_it_again(tmp_path, shards, source):
    slow = {"data__val_samples": 60, "eval__batch_size": 1, "train__epochs": 1, "checkpoint__every_steps": None}
    slow |= on_shards(shards) if source == "shards" else {}
    path, whole = config(tmp_path, "whole", **slow)
    run("train", "--config", str(path))
    path, stopped = config(tmp_path, "stopped", **slow)
    # After the sixth step's line the evaluation of the first epoch begins.
    run_killed(stopped / "metrics.jsonl", 7, "train", "--config", str(path))
    assert len(metrics(stopped)) == 7
    with terminated(stopped / "metrics.jsonl", 7):  # begins with the evaluation, which has its seven lines
        run("train", "--config", str(path), code=75)
    assert len(metrics(stopped)) == 7
    run("train", "--config", str(path))
    assert metrics(stopped) == metrics(whole)


def test_a_signal_to_the_whole_group_spares_the_loaders_until_all_is_saved(tmp_path):
    path, stopped = config(tmp_path, data__workers=2, train__epochs=60, checkpoint__every_steps=None)
    # Before the first step there is nothing to save, but the command continues.
    for file, lines, number in (("config.yaml", 1, signal.SIGINT), ("metrics.jsonl", 4, signal.SIGTERM)):
        assert run_signalled(stopped / file, lines, number, "train", "--config", str(path)) == 75
    assert json.loads((stopped / "checkpoints" / "latest" / "state.json").read_text())["step"] >= 3


def test_loaders_of_a_killed_run_end(tmp_path):
    path, folder = config(tmp_path, data__workers=2, train__epochs=60)
    loaders = run_killed(folder / "metrics.jsonl", 3, "train", "--config", str(path))
    assert len(loaders) >= 2
    assert not psutil.wait_procs(loaders, timeout=30)[1]


def test_two_processes_train_as_one(tmp_path):
    path, alone = config(tmp_path, "alone", data__batch_size=15, data__drop_last=False)
    run("train", "--config", str(path))
    path, together = config(tmp_path, "together", data__batch_size=15, data__drop_last=False)
    assert "2 process(es)" in run_together(tmp_path, "train", "--config", str(path))
    for one, other in zip(metrics(alone), metrics(together), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            # Recall moves in steps of one sample, and the norm of a gradient near rounding is itself rounding.
            rel, abs_ = (0, 0.06) if "recall" in name or "acc" in name else (1e-5, 1e-5)
            if name in ("train/grad_norm", "val/linear_separability"):
                rel, abs_ = 1e-3, 0.06
            assert other[name] == pytest.approx(value, rel=rel, abs=abs_), (one["step"], name)


def test_a_run_folder_holds_what_it_promises(tmp_path):
    path, folder = config(tmp_path, tracking__to=["wandb", "tensorboard"], checkpoint__keep_last=1)
    run("train", "--config", str(path), WANDB_MODE="offline", WANDB_SILENT="true")
    names = {p.name for p in folder.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "checkpoints", "export", "wandb", "wandb_id"} <= names
    assert list(folder.rglob("events.out.tfevents*"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12, 12]
    training = lines[1].keys()
    wanted = "loss clip uniform cross_uniform align lr logit_scale grad_norm samples_per_second data_time"
    assert {f"train/{name}" for name in wanted.split()} <= training
    assert lines[6]["samples"] == 96
    assert lines[0]["val/num_samples"] == 40
    kept = sorted(p.name for p in (folder / "checkpoints").iterdir())
    assert {"best", "latest", "step_00000012"} <= set(kept)
    assert len(kept) <= 4
    total = sum(lines[3][f"train/{n}"] for n in ("clip", "uniform", "align", "cross_uniform"))
    assert lines[3]["train/loss"] == pytest.approx(total, rel=1e-5)
    # Done is done: the same command does nothing, and says so.
    before = (folder / "metrics.jsonl").read_bytes()
    assert "is finished" in run("train", "--config", str(path))
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_changed_configuration_is_refused_by_name(tmp_path):
    path, folder = config(tmp_path, train__epochs=1)
    run("train", "--config", str(path))
    before = (folder / "metrics.jsonl").read_bytes()
    output = run("train", "--config", str(path), "--optim.lr=0.5", "--loss.terms.align=2", code=2)
    assert "optim.lr was 0.001, is 0.5" in output
    assert "loss.terms" in output
    assert "--fresh" in output
    assert (folder / "metrics.jsonl").read_bytes() == before
    run("train", "--config", str(path), "--optim.lr=0.5", "--fresh")
    assert (folder.with_name("tiny-2") / "export").is_dir()
    assert (folder / "metrics.jsonl").read_bytes() == before
    # What does not touch the numbers may change.
    assert "is finished" in run("train", "--config", str(path), "--checkpoint.keep_last=5", "--data.workers=1")


def test_a_run_that_never_began_leaves_nothing_in_the_way(tmp_path):
    path, folder = config(tmp_path, train__epochs=1)
    run("train", "--config", str(path), "--data.source=folder", "--data.path=/nowhere", code=3)
    assert not folder.exists()
    run("train", "--config", str(path))


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path):
    calls[0] = 0
    path, folder = config(tmp_path, loss__terms={f"{__name__}:broken": 1.0}, checkpoint__every_steps=1)
    output = run("train", "--config", str(path), code=4)
    assert f"step 5: {__name__}:broken, loss is not finite" in output
    weights = load_file(folder / "checkpoints" / "latest" / "open_clip_model.safetensors")
    assert all(bool(w.isfinite().all()) for w in weights.values())
    assert json.loads((folder / "checkpoints" / "latest" / "state.json").read_text())["step"] == 4


calls = [0]


def broken(image_features, text_features, logit_scale):
    """Not a number at its fifth batch; it is tried on fewer pairs before."""
    calls[0] += len(image_features) == 16
    return image_features.sum() * (float("nan") if calls[0] == 5 else 0.0)


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    path, _ = config(tmp_path, loss__terms={f"{__name__}:steep": 1.0})
    output = run("train", "--config", str(path), code=4)
    assert "step 1: the gradient of" in output
    assert "is not finite" in output


def steep(image_features, text_features, logit_scale):
    """Finite, with an infinite gradient."""
    return (image_features * 0).abs().sqrt().sum()


def test_too_many_bad_samples_stop_the_run(tmp_path):
    for i in range(60):
        (tmp_path / f"{i}.txt").write_text(f"caption {i}")
        (tmp_path / f"{i}.png").write_bytes(_picture(i) if i % 10 else b"no picture")
    changes = {
        "data__source": "folder",
        "data__path": str(tmp_path),
        "data__train_samples": None,
        "data__batch_size": 8,
    }
    path, folder = config(tmp_path, **changes, data__max_bad_fraction=0.3)
    run("train", "--config", str(path))
    last = metrics(folder)[-2]
    assert last["data/skipped_not_an_image"] >= 6
    output = run("train", "--config", str(path), "--data.max_bad_fraction=0.02", "--name=strict", code=3)
    assert "data.max_bad_fraction=0.02" in output
    assert "not_an_image" in output


def _picture(seed):
    from tests.data.pictures import picture

    return picture(seed=seed)


def test_micro_batches_and_siglip_run_and_resume(tmp_path):
    changes = {"loss__preset": "siglip", "train__micro_batch_size": 5, "train__epochs": 1, "train__precision": "bf16"}
    path, whole = config(tmp_path, "whole", **changes)
    run("train", "--config", str(path))
    path, stopped = config(tmp_path, "stopped", **changes)
    run_killed(stopped / "metrics.jsonl", 3, "train", "--config", str(path))
    run("train", "--config", str(path))
    assert metrics(stopped) == metrics(whole)


def test_export_of_a_checkpoint_is_open_clips(tmp_path):
    import open_clip

    path, folder = config(tmp_path, optim__ema_decay=0.8)
    run("train", "--config", str(path))
    printed = run("export", str(folder), "--checkpoint", "best", "--output", str(tmp_path / "best"))
    assert f"local-dir:{tmp_path / 'best'}" in printed
    open_clip.create_model(f"local-dir:{tmp_path / 'best'}")
    # The latest checkpoint's export is that of the run: with the averaged weights, not the raw ones.
    run("export", str(folder), "--output", str(tmp_path / "latest"))
    exported, final = (load_file(p / "open_clip_model.safetensors") for p in (tmp_path / "latest", folder / "export"))
    raw = load_file(folder / "checkpoints" / "latest" / "raw.safetensors")
    assert all(torch.equal(exported[n], final[n]) for n in final)
    assert not torch.equal(raw["visual.proj"], final["visual.proj"])
    assert "has no checkpoint 'step_1'" in run("export", str(folder), "--checkpoint=step_1", code=3)


def test_a_checkpoint_that_does_not_fit_is_one_line(tmp_path):
    path, folder = config(tmp_path, "runs")
    with terminated(folder / "metrics.jsonl", 5):
        run("train", "--config", str(path), code=75)
    moments = folder / "checkpoints" / "latest" / "optimizer.safetensors"
    tensors = load_file(moments)
    tensors["no.such.weight/exp_avg"] = torch.zeros(1)
    save_file(tensors, moments)
    state = folder / "checkpoints" / "latest" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"files": {}}))  # as if it had been written so
    output = run("train", "--config", str(path), code=3)
    assert "no.such.weight" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_save_when_their_launcher_is_told_to_end_or_is_gone(tmp_path, number):
    path, folder = config(tmp_path, train__epochs=500, checkpoint__every_steps=None, data__workers=number % 2 * 2)
    environment = os.environ | {"GAPLESS_PYTHON": sys.executable}
    launch = ["bash", LAUNCHER, "--num_processes", "2", "--cpu", "train", "--config", str(path)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(launch, stdout=log, stderr=log, start_new_session=True, env=environment)
        assert wait_for(folder / "metrics.jsonl", 3, lambda: process.poll() is None)
        ranks = psutil.Process(process.pid).children()
        os.killpg(process.pid, number)
        code = process.wait(120)
    assert code == (75 if number == signal.SIGTERM else -9)
    assert not psutil.wait_procs(ranks, timeout=60)[1]
    said = (tmp_path / "log").read_text()
    assert said.count("the same command resumes") == 1
    assert "Traceback" not in said
    assert (folder / "checkpoints" / "latest" / "rng_1.safetensors").exists()


@pytest.mark.parametrize(
    ("number", "seconds", "message"),
    [(signal.SIGKILL, 600, "another process of the run died"), (signal.SIGSTOP, 10, "did not answer within the time")],
)
def test_a_process_that_is_lost_ends_the_run(tmp_path, number, seconds, message):
    path, folder = config(tmp_path, train__epochs=500, checkpoint__every_steps=None, train__timeout=seconds)
    ranks = start_ranks(2, tmp_path, "train", "--config", str(path))
    assert wait_for(folder / "metrics.jsonl", 3, ranks[0].is_alive)
    os.kill(ranks[1].pid, number)
    ranks[0].join(60)
    ranks[1].kill()
    assert ranks[0].exitcode == 5
    (line,) = [line for line in (tmp_path / "0.log").read_text().splitlines() if "error" in line]
    assert re.match(rf"gapless: error: \[process 0\] step \d+ of 3000: .*{message}", line)


def test_the_config_of_a_run_is_resolved(tmp_path):
    path, folder = config(tmp_path, train__epochs=1, name="x-{hash}")
    run("train", "--config", str(path))
    (found,) = (p for p in (tmp_path / "runs").iterdir() if p.name.startswith("x-"))
    tree = yaml.safe_load((found / "config.yaml").read_text())
    assert tree["optim"]["betas"] == [0.9, 0.98]
    assert tree["loss"]["terms"] == {}
    assert not folder.exists()
    assert "is finished" in run("train", "--config", str(found / "config.yaml"))
