import math

import open_clip
import pytest
import torch
from open_clip.loss import SigLipLoss

from gapless.losses import clip_loss, siglip_loss


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
