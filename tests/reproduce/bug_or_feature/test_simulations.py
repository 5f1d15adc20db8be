import json
import math

import pytest
import torch

from gapless.reproduce.bug_or_feature.simulations import ablation, clusters, descend, softmax_sums
from gapless.reproduce.connect_collapse_corrupt.simulations import mlp_collapse, stable_region, two_spans
from gapless.reproduce.simulations import SIMULATIONS
from tests.runs import run


def test_effective_dimensions_fall_with_depth_as_published():
    found = mlp_collapse(depth=21)
    values = list(found.numbers.values())
    assert values == sorted(values, reverse=True)
    for name, value in found.numbers.items():
        assert value == pytest.approx(found.published[name], rel=0.15), name


def test_the_gap_at_initialisation_is_the_published_one():
    gaps = [two_spans(n=1000, steps=0, seed=seed).numbers for seed in range(20)]
    whole = torch.tensor([g["gap before"] for g in gaps])
    constant = torch.tensor([g["gap before, constant dimensions"] for g in gaps])
    assert float(whole.mean()) == pytest.approx(1.229, abs=0.02)  # over 20 seeds, +- 0.027 each
    assert float(constant.mean()) == pytest.approx(1.007, abs=0.03)
    assert abs(float(whole.mean()) - 1.21) < 2 * float(whole.std())  # the paper's draw


def test_constant_dimensions_stay_constant_while_the_others_align():
    found = two_spans(n=60, d=48, image_dims=4, text_dims=16, steps=150, lr=20.0)
    assert found.numbers["variance after, constant dimensions"] < 5e-3
    assert found.numbers["loss after"] < 0.8 * math.log(60)
    assert found.numbers["gap after, constant dimensions"] > 0.5


def test_the_margin_of_lemma_2_is_where_the_loss_is_delta():
    found = stable_region(n=40, d=8, delta=0.05, seed=3)
    values = list(found.numbers.values())
    assert values == sorted(values)  # monotone in the temperature
    points = torch.nn.functional.normalize(
        torch.randn(40, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64), dim=1
    )
    negatives = points[1:] @ points[0]
    positive = negatives.max() + found.numbers["margin at temperature 0.1"]
    logits = torch.cat([positive[None], negatives]) / 0.1
    assert float(logits.logsumexp(0) - logits[0]) == pytest.approx(0.05)


def test_tight_clusters_keep_a_gap_that_becomes_orthogonal():
    found = clusters(steps=4000).numbers
    assert found["gap after"] == pytest.approx(found["gap before"], rel=0.02)
    assert found["orthogonality after"] < 0.1 * found["orthogonality before"]
    assert found["variance of S after"] < 1e-4 < found["variance of S before"]
    assert found["relative alignment"] == 1
    warm = clusters(n=40, temperature=1.0, lr=0.02, growth=1.0, steps=6000).numbers
    assert warm["gap after"] < 0.2 * warm["gap before"]


def test_what_remains_of_a_gap_by_temperature_and_dimension():
    found = ablation(20, (0.1, 1.0), (0.0, 1.0), (2, 16), 1000).numbers
    assert found["d 2, gap 1, temperature 0.1"] > 0.8
    assert found["d 2, gap 1, temperature 1"] < 0.2
    assert found["d 16, gap 1, temperature 1"] > 0.8  # few points in many dimensions align without closing it
    assert max(found["d 2, gap 0, temperature 0.1"], found["d 2, gap 0, temperature 1"]) < 0.01


def test_descent_is_on_the_contrastive_loss_of_distances():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    moved, _, history = descend(x, y, 1, 0.01, 0.5)
    plain = x.clone().requires_grad_()
    logits = -((plain[:, None] - y[None]) ** 2).sum(dim=2) / 0.5
    loss = -(logits.log_softmax(dim=1).diagonal() + logits.log_softmax(dim=0).diagonal()).sum()
    loss.backward()
    torch.testing.assert_close(moved, x - 0.01 * plain.grad)
    assert history["loss"][0] == pytest.approx(float(loss.detach()) / 12)
    sums = softmax_sums(x, y, 0.5)
    assert [float(s.mean()) for s in sums] == pytest.approx([1, 1])  # by definition


def test_every_simulation_has_a_small_form_with_figure_and_json(tmp_path):
    printed = run("simulate", "all", "--small", "--output", str(tmp_path))
    for name, (title, *_) in SIMULATIONS.items():
        assert title in printed
        assert json.loads((tmp_path / f"{name}.json").read_text())["numbers"]
        assert (tmp_path / f"{name}.png").stat().st_size > 3000
    assert "mlp-collapse" in run("simulate")
    assert "'cube' is not one of all" in run("simulate", "cube", code=2)
