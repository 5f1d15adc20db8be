"""Bad samples, and numbers that are not finite: what is passed over, and what ends the run."""

import math

import pytest
import torch

from gapless.data.samples import BadSample
from gapless.errors import DataError, NonFiniteError
from tests.engine.tasks import Points, by_hand, lines, points, state, task

pytestmark = pytest.mark.usefixtures("quick_disk")


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


def test_gradients_that_are_too_large_together_are_named_so(tmp_path):
    made = task(tmp_path)
    made.with_parts = lambda parts: setattr(parts.accelerator, "clip_grad_norm_", lambda *_: torch.tensor(math.inf))
    with pytest.raises(NonFiniteError, match="step 1: the gradient of the total norm is not finite"):
        made.carry_out()
