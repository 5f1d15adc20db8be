"""Pseudo-values against the mean, whose samples they are, and their error against the bootstrap."""

import pytest
import torch

from gapless.geometry import centroid_distance, pseudo_values, smooth_measures


def mean_of_images(x, y):
    return {"mean": float(x[:, 0].mean())}


def test_of_a_mean_over_single_pairs_they_are_the_values(unit):
    x = unit(12, 4)
    found = pseudo_values(mean_of_images, x, x, blocks=12)["mean"]
    assert sorted(found.tolist()) == pytest.approx(sorted(x[:, 0].tolist()))


def test_groups_stay_together(unit):
    x = unit(12, 4)
    groups = torch.tensor([7, 7, 7, 7, 3, 3, 3, 3, 9, 9, 9, 9])
    found = pseudo_values(mean_of_images, x, x, groups)["mean"]  # of three groups three blocks
    assert sorted(found.tolist()) == pytest.approx(sorted(x[:, 0].reshape(3, 4).mean(dim=1).tolist()))
    with pytest.raises(ValueError, match="at least two groups"):
        pseudo_values(mean_of_images, x, x, torch.zeros(12, dtype=torch.long))


def test_their_standard_error_is_that_of_the_measure(unit):
    x, y = unit(400, 6), unit(400, 6, 1)
    y[:, 0] += 0.5
    values = pseudo_values(smooth_measures, x, y, blocks=40)
    assert set(values) == set(smooth_measures(x, y))
    found = float(values["centroid_distance"].std() / 40**0.5)
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randint(400, (400,), generator=generator) for _ in range(400)]
    bootstrap = torch.tensor([centroid_distance(x[rows], y[rows]) for rows in draws])
    assert found == pytest.approx(float(bootstrap.std()), rel=0.25)
    assert float(values["centroid_distance"].mean()) == pytest.approx(centroid_distance(x, y), abs=3 * found)
