"""Everything that the loop hands on, seen in a run of a few milliseconds."""

import contextlib
import logging
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gapless.data.samples import BadSample
from gapless.engine import loop
from gapless.errors import ConfigError, DataError, NonFiniteError, StoppedError
from tests.engine.tasks import MODEL, Points, checkpoints, lines, loss_of, points, state, task


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def by_hand(config, steps, decay=None):
    """The same run as one plain loop in float64: losses, norms, weights and averages after each step."""
    w, s = torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    moments = [[torch.zeros_like(p), torch.zeros_like(p)] for p in (w, s)]
    average, losses, norms, weights, averages = w.clone(), [], [], [], []
    o = config.optim
    for step in range(steps):
        w.requires_grad_(), s.requires_grad_()
        loss = loss_of(points(step).double() @ w.T * s + 7)
        gradients = torch.autograd.grad(loss, [w, s])
        w, s = w.detach(), s.detach()
        norm = float(torch.sqrt(sum(g.square().sum() for g in gradients)))
        lr = o.lr * min(1.0, (step + 1) / o.warmup_steps)
        if step >= o.warmup_steps:
            lr = o.lr * (1 + math.cos(math.pi * (step - o.warmup_steps) / (steps - o.warmup_steps))) / 2
        new = []
        for p, g, m, rate, wd in zip((w, s), gradients, moments, (lr, 0.5 * lr), (o.weight_decay, 0.0), strict=True):
            g = g * min(1.0, o.grad_clip / (norm + 1e-6))
            m[0] = o.betas[0] * m[0] + (1 - o.betas[0]) * g
            m[1] = o.betas[1] * m[1] + (1 - o.betas[1]) * g * g
            one, two = (m[k] / (1 - o.betas[k] ** (step + 1)) for k in (0, 1))
            new.append(p * (1 - rate * wd) - rate * one / (two.sqrt() + o.eps))
        w, s = new
        past = min(decay or 0, (1 + step) / (10 + step))
        average = past * average + (1 - past) * w
        losses.append(float(loss.detach()))
        norms.append(norm)
        weights.append(float(w[0, 0]))
        averages.append(float(average[0, 0]))
    return losses, norms, weights, averages


def test_a_run_is_the_plain_loop(tmp_path):
    made = task(tmp_path)
    folder = made.carry_out()
    losses, norms, weights, _ = by_hand(made.config, 6)
    found = [line for line in lines(folder) if "train/loss" in line]
    assert [line["train/loss"] for line in found] == pytest.approx(losses, rel=1e-4)
    assert [line["train/grad_norm"] for line in found] == pytest.approx(norms, rel=1e-4)
    assert max(norms) > 0.5 > min(norms)  # some are clipped, some are not
    assert made.evaluation.weights == pytest.approx([1.0, weights[2], weights[5]], rel=1e-5)
    cosine = [0.1 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    assert [line["train/lr"] for line in found] == pytest.approx([0.05, 0.1, *cosine])
    assert [line["train/number"] for line in found] == [0, 1, 2, 3, 4, 5]
    assert load_file(folder / "export" / MODEL)["weight"][0, 0] == pytest.approx(weights[5], rel=1e-5)
    assert load_file(folder / "export" / MODEL)["fixed"].tolist() == [7.0]


def test_without_a_bound_gradients_are_as_they_come(tmp_path):
    one, other = task(tmp_path, name="a", optim__grad_clip=None), task(tmp_path, name="b", optim__grad_clip=1e9)
    one.carry_out(), other.carry_out()
    assert one.evaluation.weights == other.evaluation.weights
    clipped = task(tmp_path, name="c")
    clipped.carry_out()
    assert clipped.evaluation.weights != one.evaluation.weights


def test_evaluations_and_exports_are_of_the_averaged_weights(tmp_path):
    made = task(tmp_path, optim__ema_decay=0.6)
    folder = made.carry_out()
    _, _, weights, averages = by_hand(made.config, 6, 0.6)
    assert made.evaluation.weights == pytest.approx([1.0, averages[2], averages[5]], rel=1e-5)
    assert abs(averages[5] - weights[5]) > 0.01
    logged = [line["val/weight"] for line in lines(folder) if "val/weight" in line]
    assert logged == pytest.approx(made.evaluation.weights)
    exported = load_file(folder / "export" / MODEL)
    assert exported["weight"][0, 0] == pytest.approx(averages[5], rel=1e-5)
    for name, step in (("best", 2), ("latest", 5)):
        place = folder / "checkpoints" / name
        assert load_file(place / MODEL)["weight"][0, 0] == pytest.approx(averages[step], rel=1e-5)
        assert load_file(place / "raw.safetensors")["weight"][0, 0] == pytest.approx(weights[step], rel=1e-5)
    # What is trained is the raw weights again, after each evaluation.
    assert made.weight == pytest.approx(weights[5], rel=1e-5)


def test_an_evaluation_that_fails_leaves_the_raw_weights(tmp_path):
    made = task(tmp_path, scores=(0.0,), optim__ema_decay=0.6)  # the second evaluation has no score
    with pytest.raises(IndexError):
        made.carry_out()
    _, _, weights, averages = by_hand(made.config, 6, 0.6)
    assert made.evaluation.weights[1] == pytest.approx(averages[2], rel=1e-5)
    assert made.weight == pytest.approx(weights[2], rel=1e-5)


def test_a_step_gets_its_batch_its_sizes_and_its_number(tmp_path):
    made = task(tmp_path)
    made.carry_out()
    assert made.batches.asked == [(0, 6)]
    assert [(sizes, step) for _, sizes, step in made.step.calls] == [([4], k) for k in range(6)]
    assert all(torch.equal(x, points(k)) for x, _, k in made.step.calls)


def test_lines_say_where_they_are(tmp_path):
    made = task(tmp_path, train__log_every=2)
    made.batches.special = {4: Points(points(4, 7))}
    found = lines(made.carry_out())
    places = [("val/score" in line, line["step"], line["epoch"], line["samples"]) for line in found]
    assert places == [
        (True, 0, 0, 0),
        (False, 2, pytest.approx(2 / 3, abs=1e-6), 8),
        (True, 3, 1, 12),
        (False, 4, pytest.approx(4 / 3, abs=1e-6), 16),
        (False, 6, 2, 27),
        (True, 6, 2, 27),
    ]
    assert [line["val/score"] for line in found if "val/score" in line] == [0.0, 3.0, 1.0]
    assert all(line["val/seconds"] >= 0 for line in found if "val/score" in line)
    assert all(line["train/samples_per_second"] > 0 <= line["train/data_time"] for line in found if "train/lr" in line)


def test_the_speed_is_that_of_the_steps_since_the_last_line(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("gapless.engine.meters.time.monotonic", lambda: now[0])
    made = task(tmp_path, train__log_every=2, train__epochs=2)
    draw = made.batches.batches

    def slowly(start, stop):
        for batch in draw(start, stop):
            now[0] += 0.5
            yield batch

    def takes_a_second(parts):
        made.step.before = lambda step: now.__setitem__(0, now[0] + 1.5)

    made.batches.batches, made.with_parts = slowly, takes_a_second
    found = [line for line in lines(made.carry_out()) if "train/lr" in line]
    assert [line["step"] for line in found] == [2, 4, 6]
    # Two steps of four pairs in four seconds; after the evaluation at step 3 the clock begins anew.
    assert [line["train/samples_per_second"] for line in found] == [2.0, 2.0, 2.0]
    assert [line["train/data_time"] for line in found] == [0.5, 0.5, 0.5]


def test_the_bar_shows_steps_epoch_and_loss(tmp_path, monkeypatch):
    shown, opened = [], []

    @contextlib.contextmanager
    def bar(*arguments):
        opened.append(arguments)
        yield lambda *values: shown.append(values)

    monkeypatch.setattr(loop, "progress_bar", bar)
    made = task(tmp_path)
    folder = made.carry_out()
    assert opened == [(6, 0, True)]
    assert [(step, epoch) for step, epoch, _ in shown] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    losses = [line["train/loss"] for line in lines(folder) if "train/loss" in line]
    assert [loss for _, _, loss in shown] == losses


def interrupted(made, at):
    """Stops the run by a signal's flag before a step takes its batch."""

    first = made.with_parts

    def stop(parts):
        first(parts)
        draw = made.batches.batches

        def batches(start, end):
            for batch, step in zip(draw(start, end), range(start, end), strict=True):
                parts.stop.is_set = step == at
                yield batch

        made.batches.batches = batches

    made.with_parts = stop
    with pytest.raises(StoppedError) as stopped:
        made.carry_out()
    return str(stopped.value)


@pytest.mark.parametrize("at", [1, 3, 4])
def test_stopped_and_started_again_a_run_is_the_same(tmp_path, at):
    whole = task(tmp_path, name="whole", optim__ema_decay=0.6)
    expected = [without_clock(line) for line in lines(whole.carry_out())]
    made = task(tmp_path, optim__ema_decay=0.6)
    told = interrupted(made, at)
    assert told == f"stopped by a signal at step {at} of 6; the same command resumes"
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
    told = interrupted(made, 0)
    assert "at step 0 of 6" in told
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


def test_what_the_processes_tell_each_other(tmp_path, monkeypatch):
    """A second process with five rows, and one bad sample and two cut captions of its own in every batch."""
    sent = []

    def exchange(numbers, device):
        sent.append(list(numbers))
        if len(numbers) == 1:  # of a poll
            return [list(numbers)]
        other = [5, 0, 0] + [0] * (len(numbers) - 3)
        other[3 + loop.COUNTED.index("skipped_truncated")] = 1
        other[3 + loop.COUNTED.index("converted_long_caption")] = 2
        return [list(numbers), other]

    monkeypatch.setattr(loop, "exchange", exchange)
    made = task(tmp_path)
    made.changes = {"max_bad_fraction": 0.5}
    bad = [BadSample("b.png", "truncated", "it ends too early"), BadSample("c.png", "no_caption", "")]
    made.batches.special = {1: Points(points(1), bad, {"alpha": 3})}
    found = [line for line in lines(made.carry_out()) if "train/loss" in line]
    assert [sizes for _, sizes, _ in made.step.calls] == [[4, 5]] * 6
    assert [line["samples"] for line in found] == [9, 18, 27, 36, 45, 54]
    assert sent[0] == [4, False, False] + [0] * len(loop.COUNTED)
    counts = [{k: v for k, v in line.items() if k.startswith("data/")} for line in found[:2]]
    assert counts[0] == {"data/skipped_truncated": 1.0, "data/converted_long_caption": 2.0}
    assert counts[1] == {
        "data/skipped_truncated": 3.0,
        "data/skipped_no_caption": 1.0,
        "data/converted_long_caption": 4.0,
        "data/converted_alpha": 3.0,
    }


@pytest.mark.parametrize("signalled", [0, 1])
def test_a_signal_to_any_process_stops_all(tmp_path, monkeypatch, signalled):
    calls = []

    def exchange(numbers, device):
        calls.append(1)
        said = [list(numbers), list(numbers)]
        if len(numbers) > 1 and len(calls) == 3:
            said[signalled][1] = 1
        return said

    monkeypatch.setattr(loop, "exchange", exchange)
    with pytest.raises(StoppedError, match="at step 2 of 6"):
        task(tmp_path).carry_out()
    assert state(tmp_path / "task")["step"] == 2


def test_too_many_bad_samples_in_an_epoch_end_the_run(tmp_path, caplog):
    made = task(tmp_path)
    made.changes = {"max_bad_fraction": 0.25}  # of twelve: three are allowed, and each epoch counts anew
    wrong = [BadSample(f"{k}.png", "truncated", f"at byte {k}") for k in range(9)]
    made.batches.special = {0: Points(points(0), wrong[:2]), 2: Points(points(2), wrong[2:3])}
    made.batches.special |= {3: Points(points(3), wrong[3:6]), 4: Points(points(4), wrong[6:7])}
    with pytest.raises(DataError) as error:
        made.carry_out()
    assert str(error.value) == (
        "4 bad samples in an epoch of 12, more than data.max_bad_fraction=0.25: {'skipped_truncated': 7}; "
        "the last: 6.png (at byte 6)"
    )
    assert len(made.step.calls) == 4
    named = [record.message for record in caplog.records if "left out" in record.message]
    assert named == [f"left out {k}.png: at byte {k}" for k in range(5)]  # the rest is only counted


def test_the_first_caption_that_was_cut_is_named_once(tmp_path, caplog):
    made = task(tmp_path)
    cut = {"long_caption": 2}
    made.batches.special = {k: Points(points(k), [], cut, f"caption {k}") for k in (1, 2, 4)}
    made.carry_out()
    named = [record.message for record in caplog.records if "are cut" in record.message]
    assert named == ["captions that are longer than the model's context are cut, first: caption 1"]
    assert made.parts.progress.counts == {"converted_long_caption": 6}


def test_batches_that_are_too_small_are_passed_over(tmp_path):
    made = task(tmp_path)
    made.changes = {"least_rows": 2}
    made.batches.special = {1: Points(points(1, 1)), 4: Points(points(4, 2))}
    found = lines(made.carry_out())
    assert [step for _, _, step in made.step.calls] == [0, 2, 3, 4, 5]
    assert [line["step"] for line in found if "train/loss" in line] == [1, 3, 4, 5, 6]
    assert found[-1]["samples"] == 4 * 4 + 2


def test_the_optimiser_steps_within_its_rules(tmp_path):
    made = task(tmp_path)
    seen = []

    @contextlib.contextmanager
    def rules():
        weight = made.parts.model.weight
        before, gradient = made.weight, float(weight.grad.norm())
        yield
        seen.append((before, made.weight, gradient))
        with torch.no_grad():
            weight[0, 0] = 0.25  # as a clamp would

    made.changes = {"around_step": rules}
    made.carry_out()
    assert len(seen) == 6
    assert all(before != after and gradient > 0 for before, after, gradient in seen)
    assert [before for before, _, _ in seen] == [1.0] + [0.25] * 5
    assert made.evaluation.weights == [1.0, 0.25, 0.25]


def test_embeddings_are_kept_after_their_epochs(tmp_path):
    for kept, every, expected, evaluated in (
        ((0, -1), 1, [0, 3], [0, 1, 2, 3]),
        ((1,), 3, [1], [0, 1, 3]),
        ((-1,), 2, [3], [0, 2, 3]),
        ((), 2, [], [0, 2, 3]),
    ):
        made, epochs = task(tmp_path, name=f"{kept}", scores=range(9), train__epochs=3), []

        def keep(epoch, made=made, epochs=epochs):
            epochs.append((epoch, len(made.evaluation.weights)))

        made.changes = {"kept_epochs": kept, "evaluate_every": every, "keep_embeddings": keep}
        found = lines(made.carry_out())
        assert [epoch for epoch, _ in epochs] == expected
        assert [line["epoch"] for line in found if "val/score" in line] == evaluated
        # What is kept is what was just evaluated.
        assert [count for _, count in epochs] == [evaluated.index(epoch) + 1 for epoch in expected]


def test_all_evaluations_are_in_one_line_and_the_log_shows_the_first_numbers(tmp_path, caplog):
    made = task(tmp_path)

    class Other:
        def run(self, model, autocast, poll):
            return {"val/loss": 0.25, "val/centroid_distance": 0.5, "extra/acc1": 0.75}

    made.with_parts = lambda parts: parts.evaluations.append(Other())
    with caplog.at_level(logging.INFO, "gapless"):
        found = lines(made.carry_out())
    assert [line["extra/acc1"] for line in found if "val/score" in line] == [0.75] * 3
    assert "epoch 1 of 2 (step 3): centroid_distance 0.500, loss 0.250" in caplog.text


def test_evaluations_run_in_the_precision_of_the_training(tmp_path):
    made = task(tmp_path, train__precision="bf16")
    seen = []

    class Precision:
        def run(self, model, autocast, poll):
            with autocast():
                seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
            return {}

    made.with_parts = lambda parts: parts.evaluations.append(Precision())
    made.carry_out()
    assert seen == [torch.bfloat16] * 3


@pytest.mark.parametrize(("at", "name"), [(0, "loss"), (4, "number")])
def test_losses_that_are_not_finite_stop_before_the_weights_change(tmp_path, at, name):
    made = task(tmp_path, checkpoint__every_steps=1)

    def broken(parts):
        step = made.step

        def call(batch, sizes, number):
            losses = step(batch, sizes, number)
            return losses | {name: torch.tensor(math.nan if number == at else 1.0)}

        parts.step = call

    made.with_parts = broken
    with pytest.raises(NonFiniteError) as error:
        made.carry_out()
    assert str(error.value) == f"step {at + 1}: {name} is not finite; the weights were not changed"
    assert made.weight == pytest.approx([1.0, *by_hand(made.config, 6)[2]][at], rel=1e-5)


def test_a_gradient_that_is_not_finite_names_its_parameter(tmp_path):
    made = task(tmp_path)

    def broken(parts):
        def call(batch, sizes, number):
            losses = made.step(batch, sizes, number)
            if number == 1:
                parts.model.logit_scale.grad.fill_(math.inf)
            return losses

        parts.step = call

    made.with_parts = broken
    with pytest.raises(NonFiniteError) as error:
        made.carry_out()
    assert str(error.value) == (
        "step 2: the gradient of logit_scale is not finite; the weights were not changed "
        "(lower optim.lr, set optim.grad_clip, or train.precision=bf16)"
    )


class Scaler:
    """As accelerate's fp16 scaler looks from here; its optimiser passes over steps with infinite gradients."""

    def scale(self, loss):
        return loss

    def state_dict(self):
        return {"scale": 8.0}

    def load_state_dict(self, state):
        self.loaded = state


@pytest.mark.parametrize(("infinite", "ends"), [(19, False), (20, True)])
def test_fp16_steps_may_be_skipped_a_few_times_in_a_row(tmp_path, infinite, ends):
    made = task(tmp_path, train__epochs=14, scores=range(20))

    def broken(parts):
        parts.accelerator.scaler = Scaler()
        plain = parts.optimizer.step
        parts.optimizer.step = lambda: plain() if parts.model.weight.grad.isfinite().all() else None

        def call(batch, sizes, number):
            losses = made.step(batch, sizes, number)
            if number < infinite or 20 < number < 40:  # twice, with one sound step between
                parts.model.weight.grad.fill_(math.inf)
            return losses

        parts.step = call

    made.with_parts = broken
    if ends:
        with pytest.raises(NonFiniteError, match="step 20: the gradient of weight"):
            made.carry_out()
        return
    folder = made.carry_out()
    assert state(folder)["scaler"] == {"scale": 8.0}
    assert lines(folder)[1]["train/grad_norm"] is None  # strict JSON has no infinity


def test_weights_that_an_update_made_infinite_are_never_saved(tmp_path):
    made = task(tmp_path, checkpoint__every_steps=1)

    def broken(parts):
        plain = parts.optimizer.step

        def step():
            plain()
            if parts.progress.step == 2:
                parts.model.weight.data.fill_(math.nan)

        parts.optimizer.step = step

    made.with_parts = broken
    with pytest.raises(NonFiniteError) as error:
        made.carry_out()
    assert str(error.value) == (
        "step 3: the update left weights that are not finite; nothing of it was saved "
        "(lower optim.lr or raise optim.eps)"
    )
    assert state(tmp_path / "task")["step"] == 2


@pytest.mark.parametrize("broken", ["exp_avg_sq", "average", "step"])
def test_moments_and_averages_that_are_not_finite_are_not_saved_either(tmp_path, broken):
    made = task(tmp_path, optim__ema_decay=0.5)

    def breaks(parts):
        def step(number):
            if number == 2 and broken == "average":
                parts.average.averages["weight"].fill_(math.inf)
            elif number == 2:
                parts.optimizer.state[parts.model.weight][broken].fill_(math.inf)

        made.step.before = step

    made.with_parts = breaks
    if broken == "step":  # a count, and no number of the model
        made.carry_out()
        return
    with pytest.raises(NonFiniteError, match="step 3: the update left weights that are not finite"):
        made.carry_out()
    assert not list((tmp_path / "task" / "checkpoints").glob("step_*"))


def test_an_evaluation_that_is_not_finite_names_its_step(tmp_path):
    made = task(tmp_path)

    class Broken:
        def run(self, model, autocast, poll):
            raise NonFiniteError("the image features are not finite")

    made.with_parts = lambda parts: parts.evaluations.append(Broken())
    with pytest.raises(NonFiniteError) as error:
        made.carry_out()
    assert str(error.value) == "evaluation after step 0: the image features are not finite"
