import json
import math

import pytest
import torch

from gapless.reproduce.bug_or_feature.simulations import ablation, by_number, clusters, descend, softmax_sums
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
    found = clusters(steps=3000).numbers
    assert found["gap after"] == pytest.approx(found["gap before"], rel=0.02)
    assert found["orthogonality after"] < 0.1 * found["orthogonality before"]
    assert found["variance of S after"] < 1e-4 < found["variance of S before"]
    assert found["relative alignment"] == 1
    warm = clusters(n=40, temperature=1.0, lr=0.02, growth=1.0, steps=3000).numbers
    assert warm["gap after"] < 0.3 * warm["gap before"]


def test_more_points_in_the_plane_lose_their_gap():
    found = by_number((10, 40), steps=3000).numbers
    assert found["10 pairs"] > 0.98
    assert found["40 pairs"] < 0.9 * found["10 pairs"]


def test_on_the_sphere_of_many_dimensions_the_temperature_decides():
    cold = ablation(20, (0.1,), (0.0, 2.0), (256,), time=20.0).numbers
    assert cold["d 256, gap 2, temperature 0.1"] > 1.1
    warm = ablation(20, (1.0, 10.0), (0.0, 2.0), (256,), time=100.0).numbers
    assert max(warm["d 256, gap 2, temperature 1"], warm["d 256, gap 2, temperature 10"]) < 1e-6
    assert max(value for name, value in (cold | warm).items() if "gap 0" in name) < 0.05


def test_on_the_sphere_of_64_dimensions_an_orthogonal_gap_stays_at_almost_no_loss():
    found = clusters(300, 64, 2.0, 0.01, 0.1, steps=140, lr=0.01, growth=1.0, sphere=True).numbers
    assert found["gap after"] > 1.1
    assert found["orthogonality after"] < 2e-3
    assert found["loss after"] < 0.01


def test_on_the_sphere_of_three_dimensions_it_is_orthogonal_for_a_while_and_closes():
    moments = (0.2, 3.0)
    found = clusters(100, 3, 2.0, 0.01, 0.1, 700, 0.01, 1.0, sphere=True, moments=moments).numbers
    assert found["gap at time 0.2"] > 1.5
    assert found["orthogonality at time 0.2"] < 0.01
    assert found["gap after"] < 1e-6
    assert found["loss after"] > 0.5


def test_means_on_the_sphere_are_as_far_apart_as_they_are_meant_to_be():
    for gap in (0.0, 0.5, 2.0):
        assert clusters(50, 3, gap, 1e-4, steps=1, sphere=True).numbers["gap before"] == pytest.approx(gap, abs=1e-4)
    with pytest.raises(ValueError, match="at most 2 apart"):
        clusters(gap=2.5, sphere=True)


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
