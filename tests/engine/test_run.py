"""What every run hands on before and after its loop: folder, devices, resuming, refusing, exporting."""

import logging
import os
from pathlib import Path

import pytest
import yaml

from gapless.engine import run
from gapless.engine.run import beside, run_folder
from gapless.errors import ConfigError, DataError
from tests.engine.tasks import TaskConfig, checkpoints, interrupted, lines, state, task

pytestmark = pytest.mark.usefixtures("quick_disk")


def test_a_run_leaves_its_configuration_its_lines_and_its_model(tmp_path):
    made = task(tmp_path, optim__betas=(0.7, 0.95))
    assert made.carry_out() == tmp_path / "task"
    assert sorted(os.listdir(tmp_path / "task")) == ["checkpoints", "config.yaml", "export", "lock", "metrics.jsonl"]
    tree = yaml.safe_load((tmp_path / "task" / "config.yaml").read_text())
    assert list(tree)[:3] == ["name", "output", "seed"]
    assert (tree["name"], tree["output"], tree["seed"]) == ("task", str(tmp_path), 5)
    assert tree["optim"]["betas"] == [0.7, 0.95]
    assert state(tmp_path / "task")["finished"] is True
    assert state(tmp_path / "task", "step_00000003")["finished"] is False


def test_a_finished_run_is_left_alone(tmp_path, caplog):
    folder = task(tmp_path).carry_out()
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != "lock"}
    made = task(tmp_path)
    made.build = None  # nothing is built
    with caplog.at_level(logging.INFO, "gapless"):
        made.carry_out()
    assert f"{folder} is finished (step 6), there is nothing left to do; fresh=true trains it anew" in caplog.text
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != "lock"} == before


def test_a_fresh_run_lies_beside_the_old_one(tmp_path):
    task(tmp_path).carry_out()
    assert task(tmp_path).carry_out(fresh=True) == tmp_path / "task-2"
    assert yaml.safe_load((tmp_path / "task-2" / "config.yaml").read_text())["name"] == "task-2"
    (tmp_path / "task-3").mkdir()
    assert beside(tmp_path / "task") == tmp_path / "task-4"
    assert beside(tmp_path / "new") == tmp_path / "new"


def test_the_folder_has_the_hash_of_the_configuration():
    one, other = TaskConfig(name="a-{hash}", output="o"), TaskConfig(name="a-{hash}", output="o", seed=6)
    places = {run_folder(config) for config in (one, other)}
    assert len(places) == 2
    assert all(p.parent == Path("o") and len(p.name) == len("a-") + 8 for p in places)
    assert run_folder(TaskConfig(name="b", output="x/y")) == Path("x/y/b")


def test_which_keys_may_change_when_a_run_goes_on(tmp_path):
    interrupted(task(tmp_path), 1)
    free = {"checkpoint__keep_last": 5, "train__timeout": 7.0, "tracking__tags": ["a"]}
    task(tmp_path, **free).carry_out()
    assert yaml.safe_load((tmp_path / "task" / "config.yaml").read_text())["train"]["timeout"] == 7.0
    interrupted(task(tmp_path, name="other"), 1)
    with pytest.raises(ConfigError) as error:
        task(tmp_path, name="other", optim__lr=0.5, seed=6).carry_out()
    assert str(error.value) == (
        f"{tmp_path / 'other'} began with another configuration: optim.lr was 0.1, is 0.5; seed was 5, is 6. "
        "Use fresh=true or name=ANOTHER"
    )
    task(tmp_path, name="other", optim__lr=0.5).carry_out(free=("optim.lr",))


def test_a_run_goes_on_from_the_checkpoint_that_is_named(tmp_path, caplog):
    made = task(tmp_path, checkpoint__every_steps=1, checkpoint__keep_last=9, scores=(0.0, 3.0))
    interrupted(made, 5)
    again = task(tmp_path, checkpoint__every_steps=1, checkpoint__keep_last=9, scores=(1.0,))
    with caplog.at_level(logging.INFO, "gapless"):
        folder = again.carry_out(resume="step_00000004")
    assert again.batches.asked == [(4, 6)]
    assert f"resuming {folder} from step_00000004: step 4, batch 1 of 3 in epoch 2" in caplog.text
    assert "newer checkpoints than step_00000004 are kept as unused_step_00000005" in caplog.text
    assert {"unused_step_00000005", "step_00000004", "step_00000005", "step_00000006"} <= set(checkpoints(folder))
    assert [line["step"] for line in lines(folder)] == [0, 1, 2, 3, 3, 4, 5, 6, 6]


def test_a_best_that_is_left_behind_is_forgotten(tmp_path):
    made = task(tmp_path, checkpoint__every_steps=1, checkpoint__keep_last=9, scores=(0.0, 3.0))
    interrupted(made, 5)
    again = task(tmp_path, checkpoint__every_steps=1, checkpoint__keep_last=9, scores=(2.0, 1.0))
    folder = again.carry_out(resume="step_00000002")
    assert state(folder)["best"] == 2.0
    assert os.readlink(folder / "checkpoints" / "best") == "step_00000003"


def test_a_new_run_says_how_long_it_is(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "gapless"):
        folder = task(tmp_path).carry_out()
    assert f"{folder}: 2 epochs of 3 steps, 12 samples an epoch, lr 0.1 (cosine after 2 warm-up steps)" in caplog.text
    assert "resuming" not in caplog.text


def test_a_finished_run_goes_on_for_more_epochs_and_is_not_finished_meanwhile(tmp_path):
    task(tmp_path, optim__schedule="constant").carry_out()
    longer = task(tmp_path, train__epochs=3, optim__schedule="constant", scores=(1.0, 4.0))
    finished = []
    longer.with_parts = lambda parts: setattr(
        longer.step, "before", lambda step: finished.append(state(tmp_path / "task")["finished"])
    )
    folder = longer.carry_out()
    assert finished == [False] * 3
    assert longer.batches.asked == [(6, 9)]
    assert os.readlink(folder / "checkpoints" / "best") == "step_00000009"
    assert yaml.safe_load((folder / "config.yaml").read_text())["train"]["epochs"] == 3
    assert state(folder)["finished"] is True


def test_a_run_goes_on_with_the_data_that_it_began_with(tmp_path):
    made = task(tmp_path)
    made.changes = {"fingerprint": "one"}
    interrupted(made, 1)
    assert state(tmp_path / "task")["data"] == "one"
    again = task(tmp_path)
    again.changes = {"fingerprint": "other"}
    with pytest.raises(DataError, match=r"data: pairs were added, removed or changed since .*/task began"):
        again.carry_out()


@pytest.mark.parametrize("error", [ConfigError, DataError, KeyError])
def test_what_is_refused_before_its_first_step_leaves_nothing(tmp_path, error):
    made = task(tmp_path)

    class Refuses:
        def run(self, *_):
            raise error("no")

    made.with_parts = lambda parts: parts.evaluations.append(Refuses())
    with pytest.raises(error):
        made.carry_out()
    assert (tmp_path / "task").exists() == (error is KeyError)


def test_what_is_refused_later_or_in_a_folder_of_before_leaves_all(tmp_path):
    made = task(tmp_path)

    def breaks(step):
        if step == 1:
            raise DataError("no")

    made.with_parts = lambda parts: setattr(made.step, "before", breaks)
    with pytest.raises(DataError):
        made.carry_out()
    assert (tmp_path / "task" / "metrics.jsonl").is_file()
    made = task(tmp_path, name="other", checkpoint__best_metric="val/nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").touch()
    with pytest.raises(ConfigError):
        made.carry_out()
    assert {"mine", "config.yaml"} <= set(os.listdir(tmp_path / "other"))


def test_trackers_end_with_the_run_whatever_ends_it(tmp_path):
    for broken in (False, True):
        made, ended = task(tmp_path, name=f"{broken}"), []

        class Tracker:
            def __init__(self, ended):
                self.ended = ended

            def finish(self):
                self.ended.append(1)

        def prepare_tracker(parts, made=made, ended=ended, broken=broken):
            parts.accelerator.trackers = [Tracker(ended)]
            parts.accelerator.log = lambda *_, **__: None
            made.step.before = lambda step: 1 / (not broken)

        made.with_parts = prepare_tracker
        if broken:
            with pytest.raises(ZeroDivisionError):
                made.carry_out()
        else:
            made.carry_out()
        assert ended == [1]


def test_half_written_checkpoints_go_when_a_run_goes_on(tmp_path):
    interrupted(task(tmp_path), 1)
    (tmp_path / "task" / "checkpoints" / ".tmp_step_00000002").mkdir()
    task(tmp_path).carry_out()
    assert not list((tmp_path / "task" / "checkpoints").glob(".tmp_*"))


@pytest.mark.parametrize(("changed", "written"), [({}, False), ({"output": "elsewhere"}, False), ({"seed": 6}, True)])
def test_the_configuration_is_written_again_only_if_it_differs(tmp_path, changed, written):
    interrupted(task(tmp_path), 1)
    path = tmp_path / "task" / "config.yaml"
    text = yaml.safe_dump(yaml.safe_load(path.read_text()) | changed, sort_keys=False) + "# mine\n"
    path.write_text(text)
    task(tmp_path).carry_out(free=("seed",))
    assert (path.read_text() != text) is written


def test_trackers_begin_with_the_whole_configuration(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(run, "start_trackers", lambda *arguments: started.append(arguments))
    made = task(tmp_path)
    folder = made.carry_out()
    ((accelerator, tracking, tree, place),) = started
    assert accelerator is made.accelerator
    assert tracking == made.config.tracking
    assert tree == yaml.safe_load((folder / "config.yaml").read_text())
    assert place == folder


def test_a_new_run_has_nothing_to_warn_of(tmp_path, caplog):
    task(tmp_path).carry_out()
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
