"""What a checkpoint holds, how it comes to be, and which ones are kept."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gapless.engine import checkpoint, resume
from gapless.engine.checkpoint import Progress, files_in, link, rng_file, step_name, steps_in
from gapless.engine.resume import damage, load_progress
from gapless.errors import DataError
from gapless.run_folder import checksum
from tests.engine.saved import Saved
from tests.engine.tasks import MODEL

pytestmark = pytest.mark.usefixtures("quick_disk")


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_checkpoint_holds_all_that_the_run_goes_on_with(tmp_path):
    run = Saved(tmp_path)
    run.save(3, samples=12)
    place = tmp_path / "step_00000003"
    files = [MODEL, "optimizer.safetensors", "raw.safetensors", "rng_0.safetensors", "state.json"]
    assert names(place) == files
    assert run.written == [(".tmp_step_00000003", ["fixed", "logit_scale", "weight"])]
    model, moments, raw = (load_file(place / name) for name in files[:3])
    assert torch.equal(model["weight"], run.average.averages["weight"])
    assert torch.equal(model["fixed"], torch.tensor([7.0]))
    assert sorted(raw) == ["logit_scale", "weight"]
    assert torch.equal(raw["weight"], run.model.weight)
    assert not torch.equal(raw["weight"], model["weight"])
    parts = ("exp_avg", "exp_avg_sq", "step")
    assert sorted(moments) == sorted(f"{n}/{p}" for n in ("logit_scale", "weight") for p in parts)
    assert torch.equal(moments["weight/exp_avg"], run.optimizer.state[run.model.weight]["exp_avg"])
    assert torch.equal(load_file(place / "rng_0.safetensors")["cpu"], torch.get_rng_state())
    state = json.loads((place / "state.json").read_text())
    assert (state["step"], state["samples"], state["processes"], state["format"]) == (3, 12, 1, 2)
    assert sorted(state["files"]) == files
    assert state["files"][MODEL] == checksum(place / MODEL)
    assert damage(place) is None
    run.save(4, average=False)
    place = tmp_path / "step_00000004"
    assert torch.equal(load_file(place / MODEL)["weight"], run.model.weight)
    assert not (place / "raw.safetensors").exists()


def test_the_newest_and_the_best_are_kept(tmp_path):
    run = Saved(tmp_path, keep_last=2)
    for step in (1, 2):
        run.save(step)
    run.checkpoints.mark_best(1)
    for step in (3, 4, 10):
        run.save(step)
    assert names(tmp_path) == ["best", "latest", "step_00000001", "step_00000004", "step_00000010"]
    assert os.readlink(tmp_path / "latest") == "step_00000010"
    run.checkpoints.mark_best(4)  # and the first is pruned at once
    assert names(tmp_path) == ["best", "latest", "step_00000004", "step_00000010"]
    assert os.readlink(tmp_path / "best") == "step_00000004"


def test_a_checkpoint_takes_the_place_of_one_that_was_given_up(tmp_path):
    run = Saved(tmp_path)
    (tmp_path / "step_00000003").mkdir()
    (tmp_path / "step_00000003" / "old").touch()
    (tmp_path / ".tmp_step_00000003").mkdir()
    (tmp_path / ".tmp_step_00000003" / "half").touch()
    run.save(3)
    assert "old" not in names(tmp_path / "step_00000003")
    assert "half" not in names(tmp_path / "step_00000003")
    assert names(tmp_path) == ["latest", "step_00000003"]


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_and_is_named(tmp_path):
    run = Saved(tmp_path)
    run.save(1)

    def full(place, tensors):
        raise OSError(28, "No space left on device")

    run.checkpoints.write_model = full
    with pytest.raises(DataError, match=r"step_00000002 cannot be written \(No space left on device\)"):
        run.save(2)
    assert names(tmp_path) == ["latest", "step_00000001"]
    assert os.readlink(tmp_path / "latest") == "step_00000001"


def test_nothing_gets_a_name_before_it_is_on_the_disk(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr("gapless.engine.checkpoint.flush", lambda path: events.append(f"flush {path.name}"))
    rename, replace = Path.rename, os.replace
    monkeypatch.setattr(Path, "rename", lambda a, b: (events.append(f"{a.name} > {b.name}"), rename(a, b))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(f"> {Path(b).name}"), replace(a, b))[1])
    run = Saved(tmp_path, keep_last=1)
    run.save(1), run.save(2)
    assert [event for event in events if "state.json" not in event] == [
        "flush .tmp_step_00000001",
        ".tmp_step_00000001 > step_00000001",
        "> latest",
        "flush .tmp_step_00000002",
        ".tmp_step_00000002 > step_00000002",
        "> latest",
        "step_00000001 > .tmp_old_step_00000001",
    ]


def test_what_a_killed_process_left_goes(tmp_path):
    run = Saved(tmp_path)
    run.save(1)
    (tmp_path / ".tmp_step_00000002").mkdir()
    (tmp_path / ".tmp_latest").symlink_to("nowhere")
    run.checkpoints.clean()
    assert names(tmp_path) == ["latest", "step_00000001"]


def test_an_export_is_of_the_weights_as_they_are(tmp_path):
    run = Saved(tmp_path / "checkpoints")
    run.train(0)
    (tmp_path / "out").mkdir()
    run.checkpoints.export(tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out" / MODEL)["weight"], run.model.weight)
    assert run.written == [("out", ["fixed", "logit_scale", "weight"])]


def test_the_newest_is_marked_when_all_is_done(tmp_path):
    run = Saved(tmp_path)
    run.save(1), run.save(2)
    run.checkpoints.mark_finished(load_progress(tmp_path / "step_00000002"))
    assert [load_progress(step).finished for step in steps_in(tmp_path)] == [False, True]
    assert damage(tmp_path / "latest") is None


def test_names_of_checkpoints_and_their_order(tmp_path):
    assert step_name(840) == "step_00000840"
    assert rng_file(3) == "rng_3.safetensors"
    for name in ("step_00000009", "step_123456789", "step_00000010", "step_x", "unused_step_00000001", "other"):
        (tmp_path / name).mkdir()
    assert [p.name for p in steps_in(tmp_path)] == ["step_00000009", "step_00000010", "step_123456789"]
    (tmp_path / "other" / "deep").mkdir()
    for name in ("b", "deep/a", "a"):
        (tmp_path / "other" / name).touch()
    assert [p.name for p in files_in(tmp_path / "other")] == ["a", "b", "a"]


def test_a_link_is_replaced_at_once(tmp_path):
    (tmp_path / ".tmp_latest").symlink_to("of-a-killed-process")
    link(tmp_path / "latest", "one")
    link(tmp_path / "latest", "other")
    assert os.readlink(tmp_path / "latest") == "other"
    assert names(tmp_path) == ["latest"]


def test_processes_wait_for_each_other_before_and_after_all_is_written(tmp_path, monkeypatch):
    saved, events = Saved(tmp_path), []

    def watch(owner, name, event):
        plain = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: (events.append(event(*a)), plain(*a, **k))[1])

    watch(saved.accelerator, "wait_for_everyone", lambda: "wait")
    watch(saved.checkpoints, "write_model", lambda place, _: f"model in {place.name}")
    watch(checkpoint, "save_file", lambda _, path: path.name)
    watch(Path, "rename", lambda path, _: f"rename {path.name}")
    saved.save(1)
    files = ["rng_0.safetensors", "model in .tmp_step_00000001", "raw.safetensors", "optimizer.safetensors"]
    assert events == ["wait", *files, "wait", "rename .tmp_step_00000001", "wait"]
    (tmp_path / "out").mkdir()
    events.clear()
    saved.checkpoints.export(tmp_path / "out")
    assert events == ["model in out", "wait"]


class Other:
    """An accelerator of a process that is not the main one."""

    is_main_process, process_index, num_processes, device = False, 3, 4, torch.device("cpu")

    def wait_for_everyone(self):
        pass


def test_other_processes_write_their_random_numbers_alone(tmp_path):
    saved = Saved(tmp_path)
    saved.checkpoints.accelerator = Other()
    (tmp_path / ".tmp_step_00000001").mkdir()  # which the main one has made
    saved.save(1)
    saved.checkpoints.mark_best(1)
    saved.checkpoints.export(tmp_path / "out")
    saved.checkpoints.mark_finished(Progress())
    assert names(tmp_path) == [".tmp_step_00000001"]
    assert names(tmp_path / ".tmp_step_00000001") == ["rng_3.safetensors"]


def test_a_run_begins_at_nothing():
    assert asdict(Progress()) == {
        "step": 0,
        "samples": 0,
        "counts": {},
        "bad_in_epoch": 0,
        "best": None,
        "best_metric": "",
        "metrics_offset": 0,
        "scaler": {},
        "finished": False,
        "data": "",
        "processes": 0,
        "files": {},
        "format": 2,
    }


def test_random_numbers_of_a_gpu_are_kept_too(monkeypatch):
    asked, numbers = [], torch.tensor([7], dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: (asked.append(device), numbers)[1])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: asked.append((state, device)))
    device = torch.device("cuda", 1)
    states = checkpoint._rng(device)
    assert torch.equal(states["cpu"], torch.get_rng_state())
    assert states["cuda"] is numbers
    torch.rand(3)
    resume._set_rng(states, device)
    assert torch.equal(torch.get_rng_state(), states["cpu"])
    resume._set_rng({"cpu": states["cpu"]}, device)  # of a run on a CPU
    resume._set_rng(states, torch.device("cpu"))
    assert asked == [device, (numbers, device)]
