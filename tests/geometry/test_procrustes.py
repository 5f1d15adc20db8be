import torch
import torch.nn.functional as F
from scipy.linalg import orthogonal_procrustes

from gapless.geometry.procrustes import procrustes


def test_procrustes_is_scipys_and_undoes_a_rotation(unit):
    x, rotation = unit(50, 6), torch.linalg.qr(unit(6, 6, seed=1))[0]
    y = F.normalize(unit(50, 6, seed=2) + x, dim=1)
    expected, _ = orthogonal_procrustes(x.numpy(), y.numpy())
    torch.testing.assert_close(procrustes(x, y), torch.from_numpy(expected), rtol=0, atol=1e-12)
    torch.testing.assert_close(procrustes(x, x @ rotation), rotation, rtol=0, atol=1e-12)


def test_a_quarter_turn_by_hand():
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([[0.0, 2.0], [-1.0, 0.0]])  # each row of x turned by 90 degrees
    torch.testing.assert_close(procrustes(x, y), torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64))
