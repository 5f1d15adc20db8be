"""Which checkpoint a run goes on from, what is whole, and what comes back."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from gapless.engine.checkpoint import Progress, steps_in, write_state
from gapless.engine.resume import (
    choose_checkpoint,
    damage,
    find_checkpoint,
    load_optimizer,
    load_progress,
    set_aside_newer,
)
from gapless.errors import DataError
from tests.engine.saved import Saved
from tests.engine.tasks import MODEL

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture
def three(tmp_path):
    """Checkpoints of steps 1, 2 and 3, the best of step 2."""
    run = Saved(tmp_path, keep_last=9)
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
    output = f"{three / 'step_00000003'} is damaged: {MODEL} is not what was written"
    assert str(error.value) == f"{output}; resume=older continues from step_00000002"
    for step in (1, 2):
        (three / f"step_0000000{step}" / "optimizer.safetensors").unlink()
    assert damage(three / "step_00000001") == "optimizer.safetensors is missing"
    with pytest.raises(DataError) as error:
        choose_checkpoint(three, "latest")
    assert str(error.value) == f"{output}; no older one is whole"
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
    run = Saved(tmp_path)
    run.save(3)
    raw = run.model.weight.detach().clone()
    state = {k: v.clone() for k, v in run.optimizer.state[run.model.logit_scale].items()}
    drawn = torch.rand(1)
    other = Saved(tmp_path)
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
    run = Saved(tmp_path)
    run.save(3)
    path = tmp_path / "latest" / "rng_0.safetensors"
    path.unlink()
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    load_optimizer(tmp_path / "latest", run.accelerator, run.model, run.optimizer)
    assert torch.equal(torch.rand(1), expected)
    output = f"{path} is not there, as in a run of fewer processes: this process begins with a fresh seed"
    assert caplog.messages == [output]


@pytest.mark.parametrize("file", ["optimizer.safetensors", "raw.safetensors"])
def test_tensors_of_another_model_are_refused(tmp_path, file):
    run = Saved(tmp_path)
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
    run = Saved(tmp_path)
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
    run = Saved(tmp_path)
    run.checkpoints.save(Progress(), run.optimizer, None)
    load_optimizer(tmp_path / "latest", run.accelerator, run.model, run.optimizer)
    assert not any(run.optimizer.state.values())
