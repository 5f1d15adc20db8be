"""Checkpoints as files: which one a run goes on from, what is whole, what is kept, what comes back."""

import json
import os
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from gapless.engine.checkpoint import Checkpoints, Progress, files_in, link, rng_file, step_name, steps_in, write_state
from gapless.engine.optim import WeightAverage, build_optimizer
from gapless.engine.resume import (
    choose_checkpoint,
    damage,
    find_checkpoint,
    load_optimizer,
    load_progress,
    set_aside_newer,
)
from gapless.errors import DataError
from gapless.run_folder import checksum
from tests.engine.tasks import MODEL, Model, TaskConfig, loss_of, points


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Run:
    """A model with its optimiser and average, and its checkpoints."""

    def __init__(self, folder: Path, keep_last: int = 2) -> None:
        self.model, self.accelerator = Model(), Accelerator(cpu=True)
        self.optimizer = build_optimizer(self.model, TaskConfig().optim)
        self.average = WeightAverage(self.model.named_parameters(), 0.5)
        self.written = []

        def write(place, tensors):
            self.written.append((place.name, sorted(tensors)))
            save_file(tensors, place / MODEL)

        self.checkpoints = Checkpoints(folder, self.accelerator, keep_last, self.model, write)

    def train(self, step):
        self.optimizer.zero_grad()
        loss_of(self.model(points(step))).backward()
        self.optimizer.step()
        self.average.update(step)

    def save(self, step, average=True, **progress):
        self.train(step)
        self.checkpoints.save(Progress(step=step, **progress), self.optimizer, self.average if average else None)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_checkpoint_holds_all_that_the_run_goes_on_with(tmp_path):
    run = Run(tmp_path)
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
    run = Run(tmp_path, keep_last=2)
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
    run = Run(tmp_path)
    (tmp_path / "step_00000003").mkdir()
    (tmp_path / "step_00000003" / "old").touch()
    (tmp_path / ".tmp_step_00000003").mkdir()
    (tmp_path / ".tmp_step_00000003" / "half").touch()
    run.save(3)
    assert "old" not in names(tmp_path / "step_00000003")
    assert "half" not in names(tmp_path / "step_00000003")
    assert names(tmp_path) == ["latest", "step_00000003"]


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_and_is_named(tmp_path):
    run = Run(tmp_path)
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
    run = Run(tmp_path, keep_last=1)
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
    run = Run(tmp_path)
    run.save(1)
    (tmp_path / ".tmp_step_00000002").mkdir()
    (tmp_path / ".tmp_latest").symlink_to("nowhere")
    run.checkpoints.clean()
    assert names(tmp_path) == ["latest", "step_00000001"]


def test_an_export_is_of_the_weights_as_they_are(tmp_path):
    run = Run(tmp_path / "checkpoints")
    run.train(0)
    (tmp_path / "out").mkdir()
    run.checkpoints.export(tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out" / MODEL)["weight"], run.model.weight)
    assert run.written == [("out", ["fixed", "logit_scale", "weight"])]


def test_the_newest_is_marked_when_all_is_done(tmp_path):
    run = Run(tmp_path)
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


@pytest.fixture
def three(tmp_path):
    """Checkpoints of steps 1, 2 and 3, the best of step 2."""
    run = Run(tmp_path, keep_last=9)
    for step in (1, 2, 3):
        run.save(step)
    run.checkpoints.mark_best(2)
    return tmp_path


def test_checkpoints_are_found_by_name(three):
    assert find_checkpoint(three) == three / "step_00000003"
    (three / "latest").unlink()  # a link may be lost
    assert find_checkpoint(three, "latest") == three / "step_00000003"
    assert find_checkpoint(three, "best") == three / "step_00000002"
    assert find_checkpoint(three, "step_00000001") == three / "step_00000001"
    assert find_checkpoint(three, "step_1") is None
    assert find_checkpoint(three / "nowhere") is None


def test_a_run_goes_on_from_a_whole_checkpoint(three):
    assert choose_checkpoint(three, "latest") == three / "step_00000003"
    assert choose_checkpoint(three, "older") == three / "step_00000003"
    assert choose_checkpoint(three / "nowhere", "latest") is None
    assert choose_checkpoint(three / "nowhere", "older") is None
    with pytest.raises(DataError) as error:
        choose_checkpoint(three, "step_1")
    steps = "step_00000001, step_00000002, step_00000003"
    assert str(error.value) == f"resume: {three} has no checkpoint 'step_1', only {steps}"
    (three / "step_00000003" / MODEL).write_bytes(b"cut")
    assert damage(three / "step_00000003") == f"{MODEL} is not what was written"
    assert choose_checkpoint(three, "older") == three / "step_00000002"
    assert choose_checkpoint(three, "best") == three / "step_00000002"
    with pytest.raises(DataError) as error:
        choose_checkpoint(three, "latest")
    told = f"{three / 'step_00000003'} is damaged: {MODEL} is not what was written"
    assert str(error.value) == f"{told}; resume=older continues from step_00000002"
    for step in (1, 2):
        (three / f"step_0000000{step}" / "optimizer.safetensors").unlink()
    assert damage(three / "step_00000001") == "optimizer.safetensors is missing"
    with pytest.raises(DataError) as error:
        choose_checkpoint(three, "latest")
    assert str(error.value) == f"{told}; no older one is whole"
    with pytest.raises(DataError) as error:
        choose_checkpoint(three, "older")
    assert str(error.value) == f"{three} has no whole checkpoint"


def test_what_a_run_leaves_behind_gets_other_names(three):
    (three / "unused_step_00000003").mkdir()
    assert set_aside_newer(three, three / "step_00000003") == []
    assert set_aside_newer(three, three / "step_00000002") == ["unused_step_00000003"]
    assert os.readlink(three / "best") == "step_00000002"
    assert (three / "unused_step_00000003" / MODEL).is_file()
    assert set_aside_newer(three, three / "step_00000001") == ["unused_step_00000002"]
    assert not (three / "best").is_symlink()  # it was among them
    assert [p.name for p in steps_in(three)] == ["step_00000001"]


def test_states_of_other_formats(tmp_path):
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"step": 5}))
    assert load_progress(tmp_path) == Progress(step=5, format=1)
    path.write_text(json.dumps({"step": 5, "format": 3}))
    with pytest.raises(DataError) as error:
        load_progress(tmp_path)
    assert str(error.value) == f"{path} is of format 3, this version of gapless reads up to 2"
    for name, wrong in (("step", "5"), ("counts", []), ("best", "x")):
        path.write_text(json.dumps({name: wrong}))
        with pytest.raises(DataError) as error:
            load_progress(tmp_path)
        assert str(error.value) == f"{path} cannot be read ({name} is {wrong!r})"
    path.unlink()
    with pytest.raises(DataError, match=r"cannot be read \(No such file or directory\)"):
        load_progress(tmp_path)
    assert damage(tmp_path) == f"{path} cannot be read (No such file or directory)"


def test_a_state_knows_its_own_checksum(tmp_path):
    write_state(tmp_path, Progress(step=3, samples=7))
    assert damage(tmp_path) is None
    path = tmp_path / "state.json"
    path.write_text(path.read_text().replace('"samples": 7', '"samples": 8'))
    assert damage(tmp_path) == "state.json is not what was written"


def test_moments_and_raw_weights_go_back_to_their_parameters(tmp_path):
    run = Run(tmp_path)
    run.save(3)
    raw = run.model.weight.detach().clone()
    state = {k: v.clone() for k, v in run.optimizer.state[run.model.logit_scale].items()}
    drawn = torch.rand(1)
    other = Run(tmp_path)
    other.model.load_state_dict(load_file(tmp_path / "latest" / MODEL))
    load_optimizer(tmp_path / "latest", other.accelerator, other.model, other.optimizer)
    assert torch.equal(other.model.weight, raw)
    back = other.optimizer.state[other.model.logit_scale]
    assert back.keys() == state.keys()
    assert all(torch.equal(back[k], state[k]) and back[k].shape == state[k].shape for k in state)
    assert other.optimizer.state[other.model.weight]["exp_avg"].shape == (1, 2)
    assert torch.equal(torch.rand(1), drawn)
    other.train(4), run.train(4)  # and both go on alike
    assert torch.equal(other.model.weight, run.model.weight)


def test_a_process_that_was_not_there_begins_with_a_fresh_seed(tmp_path, caplog):
    run = Run(tmp_path)
    run.save(3)
    path = tmp_path / "latest" / "rng_0.safetensors"
    path.unlink()
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    load_optimizer(tmp_path / "latest", run.accelerator, run.model, run.optimizer)
    assert torch.equal(torch.rand(1), expected)
    told = f"{path} is not there, as in a run of fewer processes: this process begins with a fresh seed"
    assert caplog.messages == [told]


@pytest.mark.parametrize("file", ["optimizer.safetensors", "raw.safetensors"])
def test_tensors_of_another_model_are_refused(tmp_path, file):
    run = Run(tmp_path)
    run.save(3)
    path = tmp_path / "latest" / file
    tensors = load_file(path)
    last = sorted(tensors)[-1]
    other = last.replace("weight", "other")
    save_file(tensors | {other: tensors[last].clone()}, path)
    with pytest.raises(DataError) as error:
        load_optimizer(tmp_path / "latest", run.accelerator, run.model, run.optimizer)
    assert str(error.value) == f"{path} does not fit the model: other is in one of them only"
    save_file({name: t for name, t in tensors.items() if not name.startswith("weight")}, path)
    with pytest.raises(DataError, match=r"does not fit the model: weight is in one of them only"):
        load_optimizer(tmp_path / "latest", run.accelerator, run.model, run.optimizer)
    path.write_bytes(b"broken")
    with pytest.raises(DataError) as error:
        load_optimizer(tmp_path / "latest", run.accelerator, run.model, run.optimizer)
    assert str(error.value).startswith(f"{path} cannot be read (")


@pytest.mark.parametrize("weights", ["open_clip_model.safetensors", "captioner.safetensors"])
def test_in_the_first_format_the_models_file_has_the_raw_weights(tmp_path, weights):
    run = Run(tmp_path)
    run.save(3)
    raw = run.model.weight.detach().clone()
    place = tmp_path / "latest"
    (place / "raw.safetensors").unlink()
    save_file({n: t.detach().clone() for n, t in run.model.state_dict().items()}, place / weights)  # with what is fixed
    save_file({n: t.clone() for n, t in run.average.averages.items()}, place / "ema.safetensors")
    with torch.no_grad():
        run.model.weight.zero_()
    load_optimizer(place, run.accelerator, run.model, run.optimizer)
    assert torch.equal(run.model.weight, raw)


def test_a_run_that_was_saved_before_its_first_step_has_no_moments(tmp_path):
    run = Run(tmp_path)
    run.checkpoints.save(Progress(), run.optimizer, None)
    load_optimizer(tmp_path / "latest", run.accelerator, run.model, run.optimizer)
    assert not any(run.optimizer.state.values())
