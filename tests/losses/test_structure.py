import math

import pytest
import torch

from gapless.losses import (
    centroid_loss,
    cyclip_cross_modal_loss,
    cyclip_in_modal_loss,
    cyclip_loss,
    koleo_loss,
)


@pytest.mark.parametrize("n", [2, 5, 40])
def test_cyclip_is_the_papers_sum_over_pairs(unit, n):
    x, y = unit(n, 8), unit(n, 8, 1)
    # Goel et al. 2022, over all pairs and divided by N.
    across = sum((x[i] @ y[j] - x[j] @ y[i]) ** 2 for i in range(n) for j in range(n)) / n
    within = sum((x[i] @ x[j] - y[i] @ y[j]) ** 2 for i in range(n) for j in range(n)) / n
    assert cyclip_cross_modal_loss(x, y).item() == pytest.approx(across.item(), rel=1e-10)
    assert cyclip_in_modal_loss(x, y).item() == pytest.approx(within.item(), rel=1e-10)
    assert cyclip_loss(x, y).item() == pytest.approx((across + within).item(), rel=1e-10)


def test_cyclip_vanishes_for_one_cloud_turned(unit):
    # Distances within a rotated cloud are those of the original; a reflection keeps x_i y_j symmetric as well.
    x = unit(20, 6)
    mirror = torch.eye(6, dtype=torch.float64)
    mirror[0, 0] = -1
    assert cyclip_loss(x, x @ mirror).item() == pytest.approx(0, abs=1e-12)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    assert cyclip_in_modal_loss(x, x @ rotation).item() == pytest.approx(0, abs=1e-12)
    assert cyclip_cross_modal_loss(x, x @ rotation).item() > 0.1


def test_cyclip_keeps_its_digits_in_float32(unit):
    x = unit(500, 64)
    y = torch.nn.functional.normalize(x + 0.01 * unit(500, 64, 1), dim=1)
    for term in (cyclip_in_modal_loss, cyclip_cross_modal_loss):
        exact = term(x.float().double(), y.float().double()).item()
        assert term(x.float(), y.float()).item() == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("n", [2, 3, 31])
def test_koleo_is_the_mean_log_distance_of_the_nearest(unit, n):
    x, y = unit(n, 8), unit(n, 8, 1)
    expected = 0.0
    for f in (x, y):
        distances = torch.cdist(f, f).fill_diagonal_(math.inf)
        expected -= distances.min(dim=1).values.log().mean().item() / 2
    assert koleo_loss(x, y).item() == pytest.approx(expected, rel=1e-6)


def test_koleo_of_two_opposite_points():
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert koleo_loss(opposite, opposite).item() == pytest.approx(-math.log(2), rel=1e-6)


def test_koleo_leaves_duplicates_out(unit):
    x = torch.cat([unit(4, 8), unit(4, 8)])
    groups = torch.arange(4).repeat(2).unsqueeze(1)
    assert koleo_loss(x, x).item() > 10
    assert koleo_loss(x, x, groups).item() == pytest.approx(koleo_loss(x[:4], x[:4]).item())


def test_centroid_is_the_squared_distance_of_the_means(unit):
    x, y = unit(9, 5), unit(9, 5, 1)
    expected = sum((x[:, d].mean() - y[:, d].mean()) ** 2 for d in range(5))
    assert centroid_loss(x, y).item() == pytest.approx(expected.item(), rel=1e-12)


def test_gradients(unit):
    x, y = unit(6, 4).requires_grad_(), unit(6, 4, 1).requires_grad_()
    for loss in (cyclip_in_modal_loss, cyclip_cross_modal_loss, centroid_loss, koleo_loss):
        assert torch.autograd.gradcheck(loss, (x, y))
