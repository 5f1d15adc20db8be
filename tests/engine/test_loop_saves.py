"""When a run stops, is saved, goes on, and which of its checkpoints is the best."""

import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gapless.engine import loop
from gapless.errors import ConfigError, StoppedError
from tests.engine.tasks import MODEL, checkpoints, interrupted, lines, state, task

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.mark.parametrize("at", [1, 3, 4])
def test_stopped_and_started_again_a_run_is_the_same(tmp_path, at):
    whole = task(tmp_path, name="whole", optim__ema_decay=0.6)
    expected = [without_clock(line) for line in lines(whole.carry_out())]
    made = task(tmp_path, optim__ema_decay=0.6)
    output = interrupted(made, at)
    assert output == f"stopped by a signal at step {at} of 6; the same command resumes"
    assert len(made.step.calls) == at  # the batch that was drawn is not trained on
    assert state(tmp_path / "task")["step"] == at
    scores = (0.0, 3.0, 1.0) if at < 3 else (1.0,)
    # It begins with the evaluation again if it was stopped before it was over; these were.
    again = task(tmp_path, scores=scores[1:] if at < 3 else scores, optim__ema_decay=0.6)
    if at == 3:
        again = task(tmp_path, scores=(3.0, 1.0), optim__ema_decay=0.6)
    folder = again.carry_out()
    assert again.batches.asked == [(at, 6)]
    assert [step for _, _, step in again.step.calls] == list(range(at, 6))
    assert [without_clock(line) for line in lines(folder)] == expected
    one, other = (load_file(tmp_path / name / "export" / MODEL) for name in ("whole", "task"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def without_clock(line):
    clock = ("time", "train/samples_per_second", "train/data_time", "val/seconds")
    return {name: value for name, value in line.items() if name not in clock}


def test_a_signal_before_the_first_step_saves_nothing(tmp_path):
    made = task(tmp_path)
    output = interrupted(made, 0)
    assert "at step 0 of 6" in output
    assert not (tmp_path / "task" / "checkpoints").exists()


def test_an_evaluation_asks_whether_to_stop_and_then_all_is_saved(tmp_path):
    made = task(tmp_path)

    def ask(parts):
        def polls():
            parts.stop.is_set = len(made.evaluation.weights) == 2
            return True

        made.evaluation.polls = polls

    made.with_parts = ask
    with pytest.raises(StoppedError, match="at step 3 of 6"):
        made.carry_out()
    assert state(tmp_path / "task")["step"] == 3
    assert [line["step"] for line in lines(tmp_path / "task")] == [0, 1, 2, 3]  # the evaluation has no line yet


def test_the_checkpoint_is_there_before_the_evaluation(tmp_path):
    made = task(tmp_path)
    there = []

    def look(parts):
        made.evaluation.polls = lambda: bool(there.append(sorted(Path(tmp_path).glob("task/checkpoints/step_*"))))

    made.with_parts = look
    made.carry_out()
    assert [[p.name for p in names] for names in there] == [[], ["step_00000003"], ["step_00000003", "step_00000006"]]


@pytest.mark.parametrize(
    ("scores", "mode", "best"),
    [
        ((0.0, 1.0, 3.0, 2.0), "max", 6),
        ((9.0, 5.0, 3.0, 4.0), "min", 6),
        ((9.0, 1.0, 1.0, 0.0), "max", 3),  # a tie keeps the first, and the baseline is no checkpoint
        ((0.0, math.nan, 2.0, 1.0), "max", 6),
        ((0.0, -math.inf, 2.0, 5.0), "min", 6),
    ],
)
def test_best_is_the_checkpoint_with_the_best_value_and_is_never_pruned(tmp_path, scores, mode, best):
    changes = {"checkpoint__best_mode": mode, "checkpoint__keep_last": 1, "train__epochs": 3}
    folder = task(tmp_path, scores=scores, **changes).carry_out()
    assert os.readlink(folder / "checkpoints" / "best") == f"step_{best:08d}"
    assert checkpoints(folder) == ["best", "latest", *sorted({f"step_{best:08d}", "step_00000009"})]
    assert state(folder)["best"] == scores[best // 3]
    assert state(folder)["best_metric"] == f"{mode} val/score"


def test_a_run_knows_its_best_value_when_it_goes_on(tmp_path):
    changes = {"train__epochs": 3, "optim__schedule": "constant"}
    made = task(tmp_path, scores=(0.0, 3.0, 1.0), **changes)
    interrupted(made, 7)
    again = task(tmp_path, scores=(2.0,), **changes)
    folder = again.carry_out()
    assert os.readlink(folder / "checkpoints" / "best") == "step_00000003"
    assert state(folder)["best"] == 3.0


def test_another_best_metric_starts_from_where_it_is_asked_for(tmp_path, caplog):
    made = task(tmp_path, scores=(0.0, 3.0, 1.0), train__epochs=3)
    interrupted(made, 7)
    again = task(tmp_path, scores=(2.0,), train__epochs=3, checkpoint__best_mode="min")
    folder = again.carry_out()
    assert os.readlink(folder / "checkpoints" / "best") == "step_00000009"
    assert "best was the checkpoint with max val/score, from here on it has min val/score" in caplog.text


def test_a_best_metric_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(ConfigError) as error:
        task(tmp_path, checkpoint__best_metric="val/nothing").carry_out()
    assert str(error.value) == (
        "checkpoint.best_metric: val/nothing is not among the evaluated metrics: val/score, val/seconds, val/weight"
    )


@pytest.mark.parametrize(
    ("changes", "saved"),
    [
        ({"checkpoint__every_steps": 2}, [2, 3, 4, 6, 8, 9, 10, 12]),
        ({"checkpoint__every_epochs": 2, "parts": {"evaluate_every": 4}}, [6, 12]),
        ({"checkpoint__every_epochs": 3, "parts": {"evaluate_every": 2}}, [6, 9, 12]),
        ({"checkpoint__every_epochs": 9, "parts": {"evaluate_every": 9}}, [12]),
        ({"checkpoint__every_epochs": 9, "parts": {"evaluate_every": 9, "kept_epochs": (1,)}}, [3, 12]),
    ],
)
def test_when_a_run_is_saved(tmp_path, changes, saved):
    made = task(tmp_path, scores=range(9), train__epochs=4, **{k: v for k, v in changes.items() if k != "parts"})
    made.changes = changes.get("parts", {})
    steps = []

    def watch(parts):
        save = parts.checkpoints.save
        parts.checkpoints.save = lambda progress, *rest: (steps.append(progress.step), save(progress, *rest))

    made.with_parts = watch
    made.carry_out()
    assert steps == saved


def test_a_run_is_saved_when_its_main_process_has_waited_long_enough(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    made = task(tmp_path, train__epochs=4, scores=range(9), checkpoint__every_minutes=2.0)
    steps = []

    def watch(parts):
        save = parts.checkpoints.save
        parts.checkpoints.save = lambda progress, *rest: (steps.append(progress.step), save(progress, *rest))
        made.step.before = lambda step: now.__setitem__(0, now[0] + 61.0)

    made.with_parts = watch
    made.carry_out()
    # Steps of 61 s: what is older than two minutes is noticed before a step and saved after it; epochs end at 3, 6 ...
    assert steps == [3, 6, 9, 12]
    made = task(tmp_path, name="fast", train__epochs=2, checkpoint__every_minutes=1.0)
    made.with_parts = watch
    steps.clear()
    made.carry_out()
    assert steps == [2, 3, 5, 6]


def test_of_two_clocks_the_main_process_counts(tmp_path, monkeypatch):
    for main, other, saved in ((1, 0, [1, 2, 3, 4, 5, 6]), (0, 1, [3, 6])):
        steps = []
        monkeypatch.setattr(
            loop, "exchange", lambda own, device, a=main, b=other: [[*own[:2], a, *own[3:]], [*own[:2], b, *own[3:]]]
        )
        made = task(tmp_path, name=f"clock{main}")

        def watch(parts, steps=steps):
            save = parts.checkpoints.save
            parts.checkpoints.save = lambda progress, *rest: (steps.append(progress.step), save(progress, *rest))

        made.with_parts = watch
        made.carry_out()
        assert steps == saved
