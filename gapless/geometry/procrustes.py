"""The rotation of one cloud of embeddings onto another."""

import torch
from torch import Tensor


def procrustes(moving: Tensor, still: Tensor) -> Tensor:
    """The orthogonal matrix R, (D, D) float64, that minimises the sum of |x_i R - y_i|^2 (Schoenemann 1966).

    It may reflect. As R is orthogonal, it minimises the sum of |x_i - R y_i|^2, too.

    Args:
        moving: (N, D), the rows x.
        still: (N, D), the rows y of the same pairs.
    """
    u, _, v = torch.linalg.svd(moving.double().T @ still.double())
    return u @ v
