"""What a run leaves on the disk, and that it goes on from there as if nothing had happened."""

import hashlib
import json
import os
import re
import resource
import shutil
import tarfile
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from gapless.config import load_config
from gapless.data import emoji
from gapless.engine.checkpoint import Progress, write_state
from gapless.engine.resume import damage, load_progress
from gapless.errors import NonFiniteError
from gapless.eval import build_pair_evaluation
from gapless.models import load_export
from tests.processes import CONTEXT
from tests.runs import metrics, run, terminated, tiny_config, write_config

MODEL = "open_clip_model.safetensors"


def config(tmp_path, folder="runs", **changes):
    small = {"data__train_samples": 48, "data__val_samples": 20, "checkpoint__every_steps": None, **changes}
    path = tmp_path / f"{folder}.yaml"
    return write_config(tiny_config(tmp_path / folder, **small), path), tmp_path / folder / "tiny"


def names(folder):
    return sorted(p.name for p in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("output", ["relative", "absolute", "linked"])
def test_best_is_the_checkpoint_with_the_best_value(tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    place = {"relative": "runs", "absolute": str(tmp_path / "runs"), "linked": str(tmp_path / "link")}[output]
    changes = {"train__epochs": 4, "checkpoint__keep_last": 1, "checkpoint__best_metric": "val/made_up"}
    path, _ = config(tmp_path, **changes)
    values = [{"made_up": value} for value in (9.0, 1.0, 3.0, 2.0, float("nan"))]
    with mock.patch("gapless.eval.pairs.gap_metrics", side_effect=values):
        run("train", "--config", str(path), f"--output={place}")
    folder = Path(place) / "tiny"
    assert [line.get("val/made_up") for line in metrics(folder) if "val/made_up" in line] == [9, 1, 3, 2, None]
    assert names(folder) == ["best", "latest", "step_00000006", "step_00000012"]
    assert (folder / "checkpoints" / "best").resolve().name == "step_00000006"
    assert damage(folder / "checkpoints" / "best") is None
    run("export", str(folder), "--checkpoint", "best", "--output", "exported")


@pytest.mark.parametrize("tower", ["transformer", "batch norm"])
def test_checkpoints_hold_the_weights_that_were_measured(tmp_path, tower):
    changes = {"optim__ema_decay": 0.9, "optim__lr": 0.01, "checkpoint__keep_last": 5}
    path, folder = config(tmp_path, **changes)
    if tower == "batch norm":
        convolutions = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 16}
        tree = tiny_config(tmp_path, **changes)["model"]["architecture"] | {"vision_cfg": convolutions}
        path, folder = config(tmp_path, model__architecture=tree, **changes)
    run("train", "--config", str(path))
    logged = {line["step"]: line["val/alignment"] for line in metrics(folder) if "val/alignment" in line}
    places = {"step_00000003": 3, "step_00000006": 6, "latest": 6}
    measured = {name: _alignment(folder, folder / "checkpoints" / name) for name in places}
    assert measured == {name: pytest.approx(logged[step], abs=1e-6) for name, step in places.items()}
    assert _alignment(folder, folder / "export") == pytest.approx(logged[6], abs=1e-6)
    raw, model = (load_file(folder / "checkpoints" / "latest" / name) for name in ("raw.safetensors", MODEL))
    assert not torch.equal(raw["visual.conv1.weight"], model["visual.conv1.weight"])


def _alignment(folder, place):
    model, tokenizer = load_export(place)
    return build_pair_evaluation(load_config(folder / "config.yaml"), model, tokenizer).run(model)["val/alignment"]


def test_weights_that_an_update_made_infinite_are_never_saved(tmp_path):
    path, folder = config(tmp_path, checkpoint__every_steps=1)
    with terminated(folder / "metrics.jsonl", 3):
        run("train", "--config", str(path), code=75)
    last = os.readlink(folder / "checkpoints" / "latest")
    with mock.patch("gapless.engine.loop.learning_rate", return_value=1e38):
        output = run("train", "--config", str(path), code=4)
    assert "the update left weights that are not finite" in output
    assert os.readlink(folder / "checkpoints" / "latest") == last
    assert all(t.isfinite().all() for t in load_file(folder / "checkpoints" / last / MODEL).values())
    run("train", "--config", str(path))  # the last checkpoint is whole


def test_features_that_are_not_finite_name_the_step(tmp_path):
    path, _ = config(tmp_path)
    wrong = NonFiniteError("the image features are not finite")
    with mock.patch("gapless.eval.pairs.PairEvaluation.run", side_effect=wrong):
        output = run("train", "--config", str(path), code=4)
    assert "evaluation after step 0: the image features are not finite" in output


def test_a_folder_in_use_is_left_alone(tmp_path):
    path, folder = config(tmp_path)
    folder.mkdir(parents=True)
    entered, leave = CONTEXT.Event(), CONTEXT.Event()
    other = CONTEXT.Process(target=_hold, args=(str(folder), entered, leave))
    other.start()
    try:
        assert entered.wait(60)
        output = run("train", "--config", str(path), code=3)
        assert f"{folder} is in use by process {other.pid} on" in output
        assert os.listdir(folder) == ["lock"]
    finally:
        other.kill()
        other.join()
    run("train", "--config", str(path))  # a killed process leaves no lock behind
    assert len(metrics(folder)) == 6 + 3


def _hold(folder, entered, leave):
    from gapless.engine.lock import locked

    with locked(Path(folder)):
        entered.set()
        leave.wait()


def stopped_run(tmp_path, folder="runs", **changes):
    path, place = config(tmp_path, folder, checkpoint__every_steps=1, checkpoint__keep_last=3, **changes)
    with terminated(place / "metrics.jsonl", 5):
        run("train", "--config", str(path), code=75)
    return path, place


@pytest.mark.parametrize("file", [MODEL, "raw.safetensors", "optimizer.safetensors", "rng_0.safetensors", "state.json"])
def test_a_flipped_bit_is_noticed_and_an_older_checkpoint_taken(tmp_path, file):
    path, folder = stopped_run(tmp_path, optim__ema_decay=0.9)
    newest = (folder / "checkpoints" / "latest").resolve()
    data = bytearray((newest / file).read_bytes())
    place = data.index(b'"samples": ') + 11 if file == "state.json" else len(data) - 3
    data[place] ^= 1
    (newest / file).write_bytes(data)
    before = (folder / "metrics.jsonl").read_bytes()
    output = run("train", "--config", str(path), code=3)
    assert f"{newest.name} is damaged: {file} is not what was written; --resume=older continues from step_" in output
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert f"kept as unused_{newest.name}" in run("train", "--config", str(path), "--resume=older")
    whole, other = config(tmp_path, "whole", optim__ema_decay=0.9)
    run("train", "--config", str(whole))
    assert metrics(folder) == metrics(other)
    assert (folder / "checkpoints" / "best" / MODEL).is_file()


def test_a_checkpoint_that_lost_a_file_is_damaged(tmp_path):
    path, folder = stopped_run(tmp_path)
    (folder / "checkpoints" / "latest" / "rng_0.safetensors").unlink()
    assert "rng_0.safetensors is missing; --resume=older" in run("train", "--config", str(path), code=3)
    assert "has no checkpoint 'step_1'" in run("train", "--config", str(path), "--resume=step_1", code=3)


@pytest.mark.parametrize("text", ["", "[]", '{"step": "3"}', '{"step": 3, "speed": 1}', "[" * 100_000, '{"format": 9}'])
def test_a_state_that_is_none_is_one_line(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    assert str(tmp_path / "state.json") in damage(tmp_path)


def test_a_state_says_where_it_was(tmp_path):
    written = Progress(step=7, counts={"skipped_not_an_image": 2}, best=0.25, scaler={"scale": 2.0})
    write_state(tmp_path, written)
    assert load_progress(tmp_path) == written
    assert damage(tmp_path) is None


@pytest.mark.parametrize("left", [0, 700])
def test_metrics_that_were_cut_are_cut_back_to_whole_lines(tmp_path, left):
    path, folder = stopped_run(tmp_path)
    os.truncate(folder / "metrics.jsonl", left)
    kept = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().split("\n")[:-1]]
    output = run("train", "--config", str(path))
    assert re.search(r"metrics.jsonl was cut since the checkpoint: \d+ of its \d+ bytes are there", output)
    steps = [line["step"] for line in metrics(folder)]
    assert steps[: len(kept)] == [line["step"] for line in kept]
    assert steps[-1] == 6


def test_a_run_finds_its_folder_and_its_data_from_anywhere(tmp_path, monkeypatch):
    for i in range(60):
        _pair(tmp_path / "data", i)
    monkeypatch.chdir(tmp_path)
    path, _ = config(tmp_path, data__source="folder", data__path="data")
    folder = tmp_path / "runs" / "tiny"
    with terminated(folder / "metrics.jsonl", 3):
        run("train", "--config", str(path), "--output=runs", code=75)
    written = (folder / "config.yaml").stat().st_mtime_ns
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert "resuming" in run("train", "--config", "../runs/tiny/config.yaml")
    assert os.listdir(tmp_path / "else") == []
    assert (folder / "config.yaml").stat().st_mtime_ns == written


def _pair(folder, i):
    from tests.data.pictures import picture

    folder.mkdir(exist_ok=True)
    (folder / f"{i}.txt").write_text(f"caption {i}")
    (folder / f"{i}.png").write_bytes(picture(seed=i))


def test_a_run_goes_on_where_its_data_moved_to(tmp_path):
    for i in range(60):
        _pair(tmp_path / "data", i)
    changes = {"data__source": "folder", "data__path": str(tmp_path / "data")}
    path, folder = stopped_run(tmp_path, **changes)
    shutil.move(tmp_path / "data", tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", tmp_path / "other")
    (tmp_path / "other" / "3.txt").write_text("another caption")
    before = (folder / "metrics.jsonl").read_bytes()
    refused = run("train", "--config", str(path), f"--data.path={tmp_path / 'other'}", code=2)
    assert "data.path" in refused
    assert "began with other data" in refused
    assert (folder / "metrics.jsonl").read_bytes() == before
    shutil.copytree(tmp_path / "other", tmp_path / "data")  # another caption at the old place
    assert "data: pairs were added, removed or changed since" in run("train", "--config", str(path), code=3)
    assert "resuming" in run("train", "--config", str(path), f"--data.path={tmp_path / 'moved'}")
    assert len(metrics(folder)) == 6 + 3


def test_a_finished_run_goes_on_for_more_epochs(tmp_path):
    steady = {"optim__schedule": "constant", "optim__ema_decay": 0.9}
    path, long = config(tmp_path, "long", **steady, train__epochs=3)
    run("train", "--config", str(path))
    path, folder = config(tmp_path, **steady, train__epochs=1)
    run("train", "--config", str(path))
    assert "resuming" in run("train", "--config", str(path), "--train.epochs=3")
    assert metrics(folder) == metrics(long)
    assert "a run can only be made longer" in run("train", "--config", str(path), "--train.epochs=2", code=2)
    ramp = ["--loss.terms={align: {from: 0, to: 1}}", "--name=ramp"]
    run("train", "--config", str(path), *ramp)
    refused = run("train", "--config", str(path), *ramp, "--train.epochs=3", code=2)
    assert "train.epochs:" in refused
    assert "began with 1, not 3, and loss.terms.align depends on the number of steps" in refused


def test_a_schedule_that_ends_with_the_run_is_no_reason_to_begin_anew(tmp_path):
    path, _ = config(tmp_path)
    run("train", "--config", str(path))
    refused = run("train", "--config", str(path), "--train.epochs=5", code=2)
    assert "optim.schedule=linear depends on the number of steps" in refused


def test_what_is_refused_before_its_first_step_leaves_nothing(tmp_path):
    path, folder = config(tmp_path, checkpoint__best_metric="val/nothing")
    run("train", "--config", str(path), code=2)
    assert not folder.parent.exists()
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("kept")
    run("train", "--config", str(path), code=2)
    assert (folder / "mine.txt").read_text() == "kept"


def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_whole(tmp_path):
    path, folder = stopped_run(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (folder / "checkpoints" / "latest").resolve().iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))  # no file may be larger
    try:
        output = run("train", "--config", str(path), code=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in output
    assert all(p.stat().st_mtime_ns == time for p, time in before.items())
    assert not list(folder.rglob(".tmp_*"))
    run("train", "--config", str(path))


@pytest.fixture
def old_run(tmp_path):
    """A run of checkpoints' first format, stopped after five of twelve steps, and its lines when it went on."""
    with tarfile.open(Path(__file__).parent / "formats" / "run_format_1.tar.xz") as archive:
        archive.extractall(tmp_path / "runs", filter="data")
    return tmp_path / "runs" / "old"


@pytest.fixture
def old_split(monkeypatch):
    """The emoji as they were split then: by names without skin tones, a tenth each for val and test."""

    def split(name, size):
        return {0: "test", 1: "val"}.get(int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10, "train")

    def named(stems, captions):
        return [emoji.TONE.sub("", names[0]) for names in captions]

    monkeypatch.setattr(emoji, "concept_families", named)
    monkeypatch.setattr(emoji, "_split", split)
    emoji.all_emoji.cache_clear()
    yield
    emoji.all_emoji.cache_clear()


def test_a_run_of_the_first_format_goes_on(old_run, old_split):
    expected = [json.loads(line) for line in (old_run / "expected.jsonl").read_text().splitlines()]
    run("train", "--config", str(old_run / "config.yaml"))
    for line, then in zip(metrics(old_run), expected, strict=True):
        # Groups have other prompts since.
        one, other = ({k: v for k, v in values.items() if "emoji_g" not in k} for values in (line, then))
        assert one == {k: pytest.approx(v, rel=1e-3, abs=0.06 if "recall" in k else 1e-3) for k, v in other.items()}


def test_a_checkpoint_of_the_first_format_is_exported_with_its_averages(old_run, tmp_path):
    run("export", str(old_run), "--output", str(tmp_path / "export"))
    averages = load_file(old_run / "checkpoints" / "latest" / "ema.safetensors")
    exported = load_file(tmp_path / "export" / MODEL)
    assert all(torch.equal(exported[name].reshape(t.shape), t) for name, t in averages.items())
