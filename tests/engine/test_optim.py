import math

import pytest
import torch
from torch import nn

from gapless.config import OptimConfig
from gapless.engine.optim import WeightAverage, all_finite, build_optimizer, learning_rate


def test_hand_numbers_of_the_schedules():
    warm = OptimConfig(lr=1.0, warmup_steps=4, schedule="cosine")
    rates = [learning_rate(warm, s, 12) for s in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[8] == pytest.approx(0.5)
    assert rates[11] == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)
    linear = OptimConfig(lr=2.0, schedule="linear")
    assert [learning_rate(linear, s, 4) for s in range(4)] == [2.0, 1.5, 1.0, 0.5]
    assert learning_rate(OptimConfig(lr=3.0, schedule="constant"), 10**6, 10) == 3.0


def test_one_dimensional_parameters_are_spared_unless_told_otherwise():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    groups = build_optimizer(model, OptimConfig(weight_decay=0.3)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.3), (3, 0.0)]
    groups = build_optimizer(model, OptimConfig(weight_decay=0.3, decay_all=True)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(4, 0.3)]


def test_frozen_parameters_are_not_optimised():
    model = nn.Linear(3, 2)
    model.weight.requires_grad_(False)
    assert [p.shape for g in build_optimizer(model, OptimConfig()).param_groups for p in g["params"]] == [(2,)]


def test_average_follows_its_recursion_and_swaps_back():
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    average = WeightAverage([("p", p)], decay=0.5)
    expected = p.detach().clone()
    for step, value in enumerate(([3.0, 4.0], [5.0, 6.0])):
        with torch.no_grad():
            p.copy_(torch.tensor(value))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * p.detach()
    torch.testing.assert_close(average.averages["p"], expected)
    average.swap()
    torch.testing.assert_close(p.detach(), expected)
    average.swap()
    assert p.tolist() == [5.0, 6.0]


def test_all_is_handed_to_adamw():
    config = OptimConfig(lr=0.3, betas=(0.5, 0.6), eps=1e-4, weight_decay=0.2, temperature_lr=0.25)
    model = nn.Module()
    model.weight, model.bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    model.logit_scale, model.logit_scales = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.ones(1, 1))
    model.inner = nn.Module()
    model.inner.logit_scale = nn.Parameter(torch.tensor(2.0))
    groups = build_optimizer(model, config).param_groups
    assert {(g["lr"], g["betas"], g["eps"], g["fused"]) for g in groups} == {(0.3, (0.5, 0.6), 1e-4, True)}
    found = {(g["weight_decay"], g["lr_factor"]): [p.sum().item() for p in g["params"]] for g in groups}
    assert found == {(0.2, 1.0): [4.0, 1.0], (0.0, 1.0): [2.0], (0.0, 0.25): [1.0, 2.0]}


def test_a_schedule_shorter_than_its_warm_up_has_a_rate():
    config = OptimConfig(lr=2.0, schedule="linear", warmup_steps=3)
    assert [learning_rate(config, s, 3) for s in range(3)] == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert learning_rate(config, 3, 3) == 2.0
    assert [learning_rate(config, s, 7) for s in (3, 4, 6)] == [2.0, 1.5, 0.5]


@pytest.mark.parametrize(("bad", "finite"), [(1.0, True), (math.nan, False), (math.inf, False), (-math.inf, False)])
def test_one_number_is_enough(bad, finite):
    assert all_finite([torch.zeros(3), torch.tensor([[1e38, bad]])]) is finite


def test_an_average_moves_slowly_once_it_is_warm_and_only_over_what_is_trained():
    p, fixed = nn.Parameter(torch.tensor([0.0])), nn.Parameter(torch.tensor([5.0]), requires_grad=False)
    average = WeightAverage([("p", p), ("fixed", fixed)], decay=0.75)
    assert sorted(average.averages) == ["p"]
    with torch.no_grad():
        p.fill_(1.0)
    average.update(1000)
    assert average.averages["p"].item() == pytest.approx(0.25)
    average.update(2)  # (1 + 2) / (10 + 2) is less than the decay
    assert average.averages["p"].item() == pytest.approx(1 - 0.75 * 0.25)
