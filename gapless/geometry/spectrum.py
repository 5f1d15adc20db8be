"""How many dimensions a cloud of embeddings fills.

Axis letters: N points, D dimensions.
"""

import torch
from torch import Tensor

ROWS = 4096
"""Rows that are held in float64 at once."""


def explained_variance(features: Tensor) -> Tensor:
    """Share of the variance along each principal component.

    Args:
        features: (N, D), any scale.

    Returns:
        (D,) float64, decreasing, summing to 1; zeros if all points coincide.
    """
    mean = features.mean(dim=0, dtype=torch.float64)
    scatter = mean.new_zeros(len(mean), len(mean))
    for rows in torch.split(features, ROWS):  # a float64 copy of all rows would be the largest thing in memory
        centred = rows.double() - mean
        scatter += centred.T @ centred
    eigenvalues = torch.linalg.eigvalsh(scatter).flip(0).clamp(min=0)
    return eigenvalues / eigenvalues.sum().clamp(min=torch.finfo(torch.float64).tiny)


def effective_dimension(features: Tensor, gamma: float = 0.99) -> int:
    """Fewest principal components that hold a share gamma of the variance (connect-collapse-corrupt, Sec. 3).

    Args:
        features: (N, D).
        gamma: share of the variance in (0, 1].

    Returns:
        A count in [0, D]; 0 if all points coincide.
    """
    cumulative = explained_variance(features).cumsum(0)
    if cumulative[-1] == 0:
        return 0
    # The last value is 1 up to rounding; the clamp keeps gamma = 1 reachable.
    return int((cumulative < min(gamma, float(cumulative[-1]))).sum()) + 1


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the explained variance (Roy and Vetterli 2007): 1 for a line, D for an even cloud.

    Args:
        features: (N, D).
    """
    shares = explained_variance(features)
    return float(torch.special.entr(shares).sum().exp())
