import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from gapless.geometry import (
    centroid_distance,
    effective_dimension,
    explained_variance,
    gap_metrics,
    linear_separability,
)


def test_centroid_distance_is_not_squared():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    y = torch.tensor([[-1.0, 0.0], [-1.0, 0.0]])
    assert centroid_distance(x, y) == pytest.approx(2)
    assert centroid_distance(x, torch.tensor([[0.0, 1.0]])) == pytest.approx(math.sqrt(2))


def test_separable_clouds_and_mixed_clouds():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2000, 8, generator=generator) for _ in range(2))
    # One cloud against another of the same law: chance, within four standard errors of 800 test points.
    assert abs(linear_separability(F.normalize(x), F.normalize(y)) - 0.5) < 4 * math.sqrt(0.25 / 800)
    apart = torch.tensor([4.0] + [0.0] * 7)
    assert linear_separability(F.normalize(x + apart), F.normalize(y - apart)) > 0.99


def test_separability_is_that_of_the_gaussian_overlap():
    # Two isotropic clouds whose means lie 2 m apart: the best linear probe is right with probability Phi(m).
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(20000, 3, generator=generator) for _ in range(2))
    offset = torch.tensor([0.5, 0.0, 0.0])
    expected = 0.5 * (1 + math.erf(0.5 / math.sqrt(2)))
    assert linear_separability(x + offset, y - offset) == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 8000))


def test_separability_depends_on_the_seed_alone(unit):
    x, y = unit(60, 4), unit(60, 4, 1)
    state = torch.get_rng_state()
    assert linear_separability(x, y, seed=5) == linear_separability(x, y, seed=5)
    assert torch.equal(state, torch.get_rng_state())


def test_explained_variance_is_sklearns(unit):
    x = unit(50, 12)
    np.testing.assert_allclose(
        explained_variance(x).numpy(), PCA(12).fit(x.numpy()).explained_variance_ratio_, atol=1e-12
    )


def test_effective_dimension_of_known_spectra():
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(5000, 10, generator=generator)
    assert effective_dimension(flat, gamma=0.95) == 10
    plane = torch.cat([torch.randn(5000, 2, generator=generator), torch.zeros(5000, 8)], dim=1)
    assert effective_dimension(plane) == 2
    assert effective_dimension(plane, gamma=1.0) == 2
    assert effective_dimension(torch.ones(7, 10)) == 0


def lopsided(n=64):
    """Images that fill two dimensions, texts that fill five and crowd; what is one side's cannot be the other's."""
    generator = torch.Generator().manual_seed(7)
    x = torch.cat([torch.randn(n, 2, generator=generator), torch.zeros(n, 4)], dim=1)
    y = torch.cat([torch.zeros(n, 1), torch.randn(n, 5, generator=generator) * 0.4 + 1], dim=1)
    return F.normalize(x, dim=1), F.normalize(y, dim=1)


def test_each_metric_is_that_of_its_side():
    x, y = lopsided()
    scores = gap_metrics(x, y, seed=3)
    cross = torch.cdist(x.double(), y.double()).square()[~torch.eye(64, dtype=torch.bool)].mul(-2).exp().mean().log()
    spread = {
        f: torch.pdist(side.double()).pow(2).mul(-2).exp().mean().log().item() for f, side in (("x", x), ("y", y))
    }
    assert spread["x"] < spread["y"] - 0.2
    expected = {
        "centroid_distance": (x.mean(dim=0) - y.mean(dim=0)).norm().item(),
        "linear_separability": 1.0,
        "uniformity_image": spread["x"],
        "uniformity_text": spread["y"],
        "uniformity": (spread["x"] + spread["y"]) / 2,
        "cross_uniformity": cross.item(),
        "alignment": (x - y).square().sum(dim=1).mean().item(),
        "effective_dim_image": 2,
        "effective_dim_text": 5,
    }
    assert scores == pytest.approx(expected, rel=1e-5)


def test_the_seed_of_the_metrics_is_that_of_the_split(unit):
    x, y = unit(60, 4), unit(60, 4, 1)
    by_seed = [linear_separability(x, y, seed) for seed in range(4)]
    assert len(set(by_seed)) > 1
    assert [gap_metrics(x, y, seed)["linear_separability"] for seed in range(4)] == by_seed


def test_the_probe_is_fitted_on_the_first_four_fifths_and_scored_on_the_rest(unit):
    x, y = unit(30, 3), unit(30, 3, 1)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    fit, score = order[:24], order[24:]
    sides = [side.float() for side in (x, y)]
    probe = LogisticRegression(max_iter=1000).fit(torch.cat([side[fit] for side in sides]), [0] * 24 + [1] * 24)
    expected = probe.score(torch.cat([side[score] for side in sides]), [0] * 6 + [1] * 6)
    assert 0.4 < expected < 1
    assert linear_separability(x, y, seed=5) == expected
    assert linear_separability(x[:5], y[:5]) in (0, 0.5, 1)
    with pytest.raises(ValueError, match="at least 5 pairs, got 4"):
        linear_separability(x, y[:4])


def test_metrics_do_not_depend_on_rotation_or_on_which_is_called_image(unit):
    x, y = unit(40, 6), unit(40, 6, 1)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    scores, turned, swapped = gap_metrics(x, y), gap_metrics(x @ rotation, y @ rotation), gap_metrics(y, x)
    assert turned == pytest.approx(scores, rel=1e-9)
    for name in ("centroid_distance", "uniformity", "cross_uniformity", "alignment", "linear_separability"):
        assert swapped[name] == pytest.approx(scores[name], rel=1e-9)
