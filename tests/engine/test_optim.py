import math

import pytest
import torch
from torch import nn

from gapless.config import OptimConfig
from gapless.engine.optim import WeightAverage, build_optimizer, learning_rate


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
