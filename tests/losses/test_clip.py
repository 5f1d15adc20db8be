import math

import open_clip
import pytest
import torch
from open_clip.loss import SigLipLoss

from gapless.losses import clip_loss, siglip_loss, simclr_loss


def test_hand_number():
    # Logits 2 on the diagonal and 0 elsewhere: each row costs log(1 + e^-2).
    features = torch.eye(2, dtype=torch.float64)
    assert clip_loss(features, features, 2.0).item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_equal_similarities_cost_log_n(unit):
    same = unit(1, 8).expand(7, 8)
    assert clip_loss(same, same, 100.0).item() == pytest.approx(math.log(7))


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_open_clip_agrees(unit, scale):
    x, y = unit(33, 16).float(), unit(33, 16, 1).float()
    theirs = open_clip.ClipLoss()(x, y, torch.tensor(scale))
    assert clip_loss(x, y, scale).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_open_clip_siglip_agrees(unit):
    x, y = unit(33, 16).float(), unit(33, 16, 1).float()
    theirs = SigLipLoss()(x, y, torch.tensor(10.0), torch.tensor(-10.0))
    assert siglip_loss(x, y, 10.0, -10.0).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_swapping_modalities_changes_nothing(unit):
    x, y = unit(9, 5), unit(9, 5, 1)
    assert clip_loss(x, y, 14.0).item() == pytest.approx(clip_loss(y, x, 14.0).item(), rel=1e-12)


def test_gradients(unit):
    x, y = unit(5, 4).requires_grad_(), unit(5, 4, 1).requires_grad_()
    scale, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (10.0, -3.0))
    assert torch.autograd.gradcheck(clip_loss, (x, y, scale))
    assert torch.autograd.gradcheck(siglip_loss, (x, y, scale, bias))


@pytest.mark.parametrize("hardness", [0.0, 0.5, 2.0])
def test_hard_negatives_are_weighted_as_in_the_paper(unit, hardness):
    # HN-NCE of Radenovic et al. 2023 with alpha = 1, weights written out.
    n, x, y, scale = 7, unit(7, 6), unit(7, 6, 1), 5.0
    s = scale * x @ y.T
    total = 0.0
    for i in range(n):
        for logits in (s[i], s[:, i]):
            others = [j for j in range(n) if j != i]
            sharpness = sum(math.exp(hardness * logits[k]) for k in others)
            weighted = sum((n - 1) * math.exp(hardness * logits[j]) / sharpness * math.exp(logits[j]) for j in others)
            total -= math.log(math.exp(logits[i]) / (math.exp(logits[i]) + weighted)) / (2 * n)
    assert clip_loss(x, y, scale, hardness).item() == pytest.approx(total, rel=1e-10)


def test_duplicates_are_no_negatives(unit):
    x, y = unit(5, 6), unit(5, 6, 1)
    groups = torch.tensor([[0], [1], [1], [3], [4]])
    s = 5.0 * x @ y.T
    total = 0.0
    for i in range(5):
        allowed = [j for j in range(5) if j == i or groups[i] != groups[j]]
        total -= (s[i, i] - s[i, allowed].logsumexp(0)).item() / 10
        total -= (s[i, i] - s[allowed, i].logsumexp(0)).item() / 10
    assert clip_loss(x, y, 5.0, groups=groups).item() == pytest.approx(total, rel=1e-10)
    signs = sum(math.log1p(math.exp(s[i, j] - 2)) for i in range(5) for j in range(5) if groups[i] != groups[j])
    signs += sum(math.log1p(math.exp(2 - s[i, i])) for i in range(5))
    assert siglip_loss(x, y, 5.0, -2.0, groups).item() == pytest.approx(signs / 5, rel=1e-10)


def test_simclr_is_nt_xent_over_both_modalities(unit):
    n, x, y, scale = 6, unit(6, 5), unit(6, 5, 1), 4.0
    z = torch.cat([x, y])
    total = 0.0
    for k in range(2 * n):
        partner = (k + n) % (2 * n)
        mass = sum(math.exp(scale * z[k] @ z[j]) for j in range(2 * n) if j != k)
        total -= math.log(math.exp(scale * z[k] @ z[partner]) / mass) / (2 * n)
    assert simclr_loss(x, y, scale).item() == pytest.approx(total, rel=1e-10)
    same = unit(1, 5).expand(n, 5)
    assert simclr_loss(same, same, scale).item() == pytest.approx(math.log(2 * n - 1))
