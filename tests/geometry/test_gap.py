import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA

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


def test_gap_metrics_names_and_naive_values(unit):
    x, y = unit(64, 8).float(), unit(64, 8, 1).float()
    scores = gap_metrics(x, y)
    assert set(scores) == {
        "centroid_distance", "linear_separability", "uniformity_image", "uniformity_text", "uniformity",
        "cross_uniformity", "alignment", "effective_dim_image", "effective_dim_text",
    }  # fmt: skip
    naive_x, naive_y = (torch.pdist(f.double()).pow(2).mul(-2).exp().mean().log().item() for f in (x, y))
    assert scores["uniformity_image"] == pytest.approx(naive_x, rel=1e-6)
    assert scores["uniformity"] == pytest.approx((naive_x + naive_y) / 2, rel=1e-6)
    assert scores["alignment"] == pytest.approx((x - y).square().sum(1).mean().item(), rel=1e-6)
    assert scores["centroid_distance"] == pytest.approx(np.linalg.norm(x.numpy().mean(0) - y.numpy().mean(0)), rel=1e-5)


def test_metrics_do_not_depend_on_rotation_or_on_which_is_called_image(unit):
    x, y = unit(40, 6), unit(40, 6, 1)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    scores, turned, swapped = gap_metrics(x, y), gap_metrics(x @ rotation, y @ rotation), gap_metrics(y, x)
    assert turned == pytest.approx(scores, rel=1e-9)
    for name in ("centroid_distance", "uniformity", "cross_uniformity", "alignment", "linear_separability"):
        assert swapped[name] == pytest.approx(scores[name], rel=1e-9)
