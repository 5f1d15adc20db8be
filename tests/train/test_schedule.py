import math

import pytest
import torch

from gapless.config import ModelConfig, OptimConfig
from gapless.engine.optim import build_optimizer
from gapless.models import build_model
from gapless.train.schedule import scheduled
from tests.runs import TINY, metrics, run, tiny_config, write_config

MODGAP = {"from": 1.0, "to": 0.0, "start": 0.2, "end": 0.7}


def test_hand_numbers():
    assert scheduled(0.5, 7, 10) == 0.5
    # Fractions of a run of 101 steps, as ModGap's uniformity weight.
    assert [scheduled(MODGAP, s, 101) for s in (0, 20, 45, 70, 100)] == pytest.approx([1, 1, 0.5, 0, 0])
    steps = {"from": 0.0, "to": 4.0, "start": 10, "end": 14}
    assert [scheduled(steps, s, 10**6) for s in (0, 10, 11, 13, 14, 99)] == [0, 0, 1, 3, 4, 4]
    cosine = {"from": 0.0, "to": 1.0, "end": 4, "shape": "cosine"}
    assert [scheduled(cosine, s, 9) for s in range(5)] == pytest.approx(
        [(1 - math.cos(math.pi * s / 4)) / 2 for s in range(5)]
    )
    # Without a start or an end the ramp is the whole run, first and last step included.
    whole = {"from": 0.01, "to": 0.05}
    assert [scheduled(whole, s, 5) for s in range(5)] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    assert scheduled(whole, 0, 1) == 0.01


def test_a_run_follows_its_schedules_and_logs_them(tmp_path):
    tree = tiny_config(
        tmp_path,
        loss__terms={"uniform": {"from": 0.0, "to": 1.1, "shape": "linear"}, "align": 0.5},
        model__temperature={"from": 0.01, "to": 0.05},
        model__learnable_temperature=False,
    )
    run("train", f"--config={write_config(tree, tmp_path / 'run.yaml')}")
    lines = [line for line in metrics(tmp_path / "tiny") if "train/loss" in line]
    assert len(lines) == 12
    for k, line in enumerate(lines):
        assert line["train/weight/uniform"] == pytest.approx(k * 0.1, abs=1e-6)
        assert line["train/logit_scale"] == pytest.approx(1 / (0.01 + 0.04 * k / 11), rel=1e-5)
        total = line["train/clip"] + line["train/weight/uniform"] * line["train/uniform"]
        total += 0.5 * line["train/align"] + line["train/cross_uniform"]
        assert line["train/loss"] == pytest.approx(total, rel=1e-5)
    assert "train/weight/align" not in lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss.terms={uniform: {from: 0, too: 1}}"], "loss.terms"),
        (["--loss.terms={uniform: {from: 0, to: 1, start: 0.8, end: 0.2}}"], "loss.terms"),
        (["--model.temperature={from: 0.01, to: 0.05}"], "model.learnable_temperature"),
        (["--model.temperature={from: 0.01, to: -1}", "--model.learnable_temperature=false"], "model.temperature"),
        (["--loss.terms.unifrom=1"], "did you mean uniform"),
        (["--loss.hardness=-1"], "loss.hardness"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path, arguments, message):
    config = write_config(tiny_config(tmp_path), tmp_path / "run.yaml")
    said = run("train", f"--config={config}", *arguments, code=2)
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "tiny").exists()


def temperature_step(form, lr, factor=1.0):
    """logit_scale before and after one plain gradient step of a loss equal to logit_scale itself."""
    model, _ = build_model(ModelConfig(name="custom", architecture=TINY, temperature=0.1), seed=1)
    optimizer = torch.optim.SGD([{"params": [model.clip.logit_scale], "lr": lr * factor}])
    before = model.clip.logit_scale.exp().item()
    model.clip.logit_scale.exp().backward()
    with model.softplus_temperature(form == "softplus"):
        optimizer.step()
    return before, model.clip.logit_scale.exp().item()


def test_softplus_learns_the_number_whose_softplus_is_the_scale():
    before, after = temperature_step("softplus", 0.5)
    v = math.log(math.expm1(before))
    slope = 1 / (1 + math.exp(-v))  # of softplus, and so of the loss
    assert after == pytest.approx(math.log1p(math.exp(v - 0.5 * slope)), rel=1e-5)
    before, after = temperature_step("exp", 0.05)
    assert after == pytest.approx(before * math.exp(-0.05 * before), rel=1e-5)


def test_the_temperature_has_its_own_learning_rate():
    model, _ = build_model(ModelConfig(name="custom", architecture=TINY), seed=1)
    groups = build_optimizer(model, OptimConfig(temperature_lr=0.1)).param_groups
    slow = [g for g in groups if g["lr_factor"] == 0.1]
    assert [p is model.clip.logit_scale for g in slow for p in g["params"]] == [True]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("changes", [{"model__temperature_form": "softplus"}, {"optim__temperature_lr": 0.1}])
def test_a_run_learns_its_temperature(tmp_path, changes):
    tree = tiny_config(tmp_path, **changes)
    run("train", f"--config={write_config(tree, tmp_path / 'run.yaml')}")
    scales = [line["train/logit_scale"] for line in metrics(tmp_path / "tiny") if "train/loss" in line]
    tree = tiny_config(tmp_path, name="usual")
    run("train", f"--config={write_config(tree, tmp_path / 'run.yaml')}")
    usual = [line["train/logit_scale"] for line in metrics(tmp_path / "usual") if "train/loss" in line]
    assert scales[0] == usual[0]
    assert 0 < abs(scales[-1] - scales[0]) < 0.5 * abs(usual[-1] - usual[0])


def test_duplicates_are_counted_and_masked(tmp_path):
    # Every caption of a pair is an item of its own, and the batch is nearly the data set: images repeat.
    tree = tiny_config(tmp_path, data__captions="all", data__batch_size=64, data__train_samples=60, train__epochs=1)
    run("train", f"--config={write_config(tree, tmp_path / 'run.yaml')}")
    tree |= {"name": "masked"}
    run("train", f"--config={write_config(tree, tmp_path / 'run.yaml')}", "--loss.duplicates=mask")
    first = {name: metrics(tmp_path / name)[1] for name in ("tiny", "masked")}
    for line in first.values():
        assert 5 < line["train/duplicate_images"] < 64
        assert 0 <= line["train/duplicate_captions"] < line["train/duplicate_images"]
    assert first["masked"]["train/clip"] < first["tiny"]["train/clip"]
    assert first["masked"]["train/align"] == pytest.approx(first["tiny"]["train/align"], rel=1e-6)
