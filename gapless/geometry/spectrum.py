"""Principal components of a cloud of embeddings, and how many dimensions it fills.

Axis letters: N points, D dimensions.
"""

from typing import Literal

import torch
from torch import Tensor

from gapless.losses.strips import strips

Reading = Literal["cumulative", "relative", "absolute"]


def scatter(features: Tensor) -> Tensor:
    """Sum of the outer products of the centred rows, (D, D) float64: N times their covariance."""
    mean = features.mean(dim=0, dtype=torch.float64)
    total = mean.new_zeros(len(mean), len(mean))
    for strip in strips(*features.shape):  # a float64 copy of all rows would be the largest thing in memory
        centred = features[strip].double() - mean
        total += centred.T @ centred
    return total


def principal_axes(features: Tensor) -> tuple[Tensor, Tensor]:
    """The directions in which the rows vary, by falling variance.

    Args:
        features: (N, D), any scale.

    Returns:
        Sums of the squared coordinates of the centred rows along each direction, (D,) float64; and the directions,
        orthonormal columns of a (D, D) matrix in float64. Their signs are arbitrary.
    """
    values, vectors = torch.linalg.eigh(scatter(features))
    return values.flip(0).clamp(min=0), vectors.flip(1)


def principal_components(features: Tensor, epsilon: float = 0.0, reading: Reading = "cumulative") -> Tensor:
    """Orthonormal directions (D, K) of the centred rows, without those that epsilon drops or rounding alone makes.

    Args:
        features: (N, D) float64.
        epsilon: see :func:`gapless.geometry.close_gap`; 0 keeps every direction in which the points differ.
        reading: how epsilon is read, see there.
    """
    n, d = features.shape
    if n > 4 * d:
        squares, vectors = principal_axes(features)
        singular = squares.sqrt()
        tiny = (max(n, d) * torch.finfo(torch.float64).eps) ** 0.5  # squaring halves the digits
    else:
        _, singular, rows = torch.linalg.svd(features - features.mean(dim=0), full_matrices=False)
        vectors, tiny = rows.T, max(n, d) * torch.finfo(torch.float64).eps
    kept = singular > tiny * singular[0]
    if epsilon:
        variance = singular.square() / max(1, n - 1)
        if reading == "cumulative":
            # Fewest leading components with at least 1 - epsilon of the variance.
            held = variance.cumsum(0) / variance.sum()
            kept &= torch.arange(len(held)) <= int((held < 1 - epsilon).sum())
        elif reading == "relative":
            kept &= singular > epsilon * singular[0]
        else:
            kept &= variance > epsilon
    return vectors[:, kept]


def explained_variance(features: Tensor) -> Tensor:
    """Share of the variance along each principal component.

    Args:
        features: (N, D), any scale.

    Returns:
        (D,) float64, decreasing, summing to 1; zeros if all points coincide.
    """
    eigenvalues = torch.linalg.eigvalsh(scatter(features)).flip(0).clamp(min=0)
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
