import math

import pytest
import torch

from gapless.losses import (
    alignment_loss,
    centroid_uniformity_loss,
    cross_attraction_loss,
    cross_uniformity_loss,
    intra_uniformity,
    uniformity_loss,
)
from gapless.losses.uniformity import _log_mean_kernel


def test_hand_numbers():
    # Opposite points: squared distance 4. Orthogonal points: 2.
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    orthogonal = torch.eye(2, dtype=torch.float64)
    assert intra_uniformity(opposite).item() == pytest.approx(-8)
    assert intra_uniformity(orthogonal, t=3.0).item() == pytest.approx(-6)
    # x1-y2 and x2-y1: distances 2 and 2 for the pair of identical clouds.
    assert cross_uniformity_loss(orthogonal, orthogonal).item() == pytest.approx(-4)
    assert alignment_loss(orthogonal, orthogonal.flip(0)).item() == pytest.approx(2)
    assert alignment_loss(orthogonal, orthogonal.flip(0), alpha=1.0).item() == pytest.approx(math.sqrt(2))


def test_identical_points_have_uniformity_zero(unit):
    same = unit(1, 8).expand(6, 8)
    assert intra_uniformity(same).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 31])
def test_pdist_and_cdist_agree(unit, n):
    x, y = unit(n, 8), unit(n, 8, 1)
    naive = [torch.pdist(f).pow(2).mul(-2).exp().mean().log() for f in (x, y)]
    assert uniformity_loss(x, y).item() == pytest.approx((naive[0] + naive[1]).item() / 2, rel=1e-10)
    others = ~torch.eye(n, dtype=torch.bool)
    crossed = torch.cdist(x, y)[others].square().mul(-2).exp().mean().log()
    assert cross_uniformity_loss(x, y).item() == pytest.approx(crossed.item(), rel=1e-10)


def test_strips_change_nothing(unit, monkeypatch):
    x, y = unit(31, 8).requires_grad_(), unit(31, 8, 1)
    whole = _log_mean_kernel(x, y, 2.0)
    (gradient,) = torch.autograd.grad(whole, x)
    monkeypatch.setattr("gapless.losses.strips.STRIP_ELEMENTS", 5 * 31)
    strips = _log_mean_kernel(x, y, 2.0)
    assert strips.item() == pytest.approx(whole.item(), rel=1e-13)
    torch.testing.assert_close(torch.autograd.grad(strips, x)[0], gradient, rtol=1e-12, atol=1e-15)


def test_float32_near_the_smallest_kernel(unit):
    # Two opposite points: the mean kernel is e^-8, which a subtracted diagonal of 1 would drown.
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert intra_uniformity(opposite).item() == pytest.approx(-8, rel=1e-6)


def test_rotation_and_permutation_change_nothing(unit):
    x, y = unit(12, 6), unit(12, 6, 1)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    order = torch.randperm(12)
    for loss in (uniformity_loss, cross_uniformity_loss, alignment_loss):
        value = loss(x, y).item()
        assert loss(x @ rotation, y @ rotation).item() == pytest.approx(value, rel=1e-10)
        assert loss(x[order], y[order]).item() == pytest.approx(value, rel=1e-10)
        assert loss(y, x).item() == pytest.approx(value, rel=1e-10)


def test_alignment_is_two_minus_twice_the_mean_cosine(unit):
    x, y = unit(40, 6), unit(40, 6, 1)
    assert alignment_loss(x, y).item() == pytest.approx(2 - 2 * (x * y).sum(1).mean().item(), rel=1e-12)


def test_gradients(unit):
    x, y = unit(5, 4).requires_grad_(), unit(5, 4, 1).requires_grad_()
    # The formulas are those of unit-norm rows, so the check moves on the sphere.
    for loss in (uniformity_loss, cross_uniformity_loss, alignment_loss):
        assert torch.autograd.gradcheck(
            lambda a, b, loss=loss: loss(torch.nn.functional.normalize(a), torch.nn.functional.normalize(b)), (x, y)
        )


def test_duplicates_have_finite_gradients(unit):
    x = unit(1, 4).repeat(5, 1).requires_grad_()
    (intra_uniformity(x) + alignment_loss(x, x.detach())).backward()
    assert bool(x.grad.isfinite().all())


def test_one_pair_is_an_error(unit):
    with pytest.raises(ValueError, match="at least 2 pairs"):
        intra_uniformity(unit(1, 4))


def test_centroid_uniformity_is_that_of_the_normalised_midpoints(unit):
    x, y = unit(12, 6), unit(12, 6, 1)
    middles = torch.nn.functional.normalize((x + y) / 2, dim=1)
    naive = torch.pdist(middles).pow(2).mul(-2).exp().mean().log()
    assert centroid_uniformity_loss(x, y).item() == pytest.approx(naive.item(), rel=1e-10)


def test_cross_attraction_is_the_cross_term_of_the_cauchy_schwarz_divergence(unit):
    # CS-Aligner's divergence with k = exp(-2 r^2), by full kernel matrices; the papers' uniformity terms are its parts
    # with the diagonal left out, and the cross term has the opposite sign.
    n, x, y = 15, unit(15, 6), unit(15, 6, 1)
    kernels = [torch.cdist(a, b).square().mul(-2).exp() for a, b in ((x, x), (y, y), (x, y))]
    divergence = kernels[0].mean().log() + kernels[1].mean().log() - 2 * kernels[2].mean().log()
    within = [((n * (n - 1) * intra_uniformity(f).exp() + n) / n**2).log() for f in (x, y)]
    assert (sum(within) + 2 * cross_attraction_loss(x, y)).item() == pytest.approx(divergence.item(), rel=1e-10)
    matching = (x - y).square().sum(1).mul(-2).exp().sum()
    crossed = ((n * (n - 1) * cross_uniformity_loss(x, y).exp() + matching) / n**2).log()
    assert cross_attraction_loss(x, y).item() == pytest.approx(-crossed.item(), rel=1e-10)


def test_masked_duplicates_are_left_out(unit):
    x, y = unit(6, 8), unit(6, 8, 1)
    groups = torch.tensor([[0, 10], [1, 11], [0, 12], [3, 11], [4, 14], [5, 15]])
    repel = [(i, j) for i in range(6) for j in range(6) if i != j and {i, j} not in ({0, 2}, {1, 3})]
    for loss, a, b in ((cross_uniformity_loss, x, y), (uniformity_loss, x, x)):
        naive = torch.stack([(-2 * (a[i] - b[j]).square().sum()).exp() for i, j in repel]).mean().log()
        assert loss(a, b, groups=groups).item() == pytest.approx(naive.item(), rel=1e-12)
