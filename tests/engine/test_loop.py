"""Everything that the loop hands on, seen in a run of a few milliseconds."""

import contextlib
import logging
import math

import pytest
import torch
from safetensors.torch import load_file

from gapless.data.samples import BadSample
from gapless.engine import loop
from gapless.errors import StoppedError
from tests.engine.tasks import MODEL, Points, by_hand, lines, points, state, task

pytestmark = pytest.mark.usefixtures("quick_disk")


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
