"""How different the two clouds are as distributions, once their means are taken away.

Axis letters: N images, M texts, D dimensions.
"""

import torch
from torch import Tensor

from gapless.losses.strips import strips

MEDIAN_OF = 1024
"""Rows of each cloud between which the median distance is taken."""


def centred(features: Tensor) -> Tensor:
    """float64 rows without their mean."""
    rows = features.double()
    return rows - rows.mean(dim=0)


def _mean_distances(x: Tensor, y: Tensor, width: float) -> tuple[float, float]:
    """Means over all pairs of rows of |x - y| and of exp(-|x - y|^2 / (2 width^2))."""
    norm = kernel = 0.0
    for strip in strips(len(x), len(y)):
        distances = torch.cdist(x[strip], y)
        norm += float(distances.sum(dtype=torch.float64))
        kernel += float(distances.square_().mul_(-0.5 / width**2).exp_().sum(dtype=torch.float64))
    count = len(x) * len(y)
    return norm / count, kernel / count


@torch.no_grad()
def distribution_gap(image_features: Tensor, text_features: Tensor) -> dict[str, float]:
    """Three distances of the centred clouds, each 0 for equal distributions; they need no pairs.

    Args:
        image_features: (N, D).
        text_features: (M, D).

    Returns:
        ``energy_distance``: 2 E|x - y| - E|x - x'| - E|y - y'|. ``mmd2``: squared maximum mean discrepancy with an RBF
        kernel as wide as the median distance between the clouds. ``gaussian_w2``: 2-Wasserstein distance of the
        Gaussians with their covariances.
    """
    x, y = centred(image_features), centred(text_features)
    # Quadratic sums in the precision of the features, which decides how long they take.
    u, v = x.to(image_features.dtype), y.to(text_features.dtype)
    median = float(torch.cdist(u[:MEDIAN_OF], v[:MEDIAN_OF]).median()) or 1.0
    (across, k_across), (x_alone, k_x), (y_alone, k_y) = (
        _mean_distances(a, b, median) for a, b in ((u, v), (u, u), (v, v))
    )
    return {
        "energy_distance": max(0.0, 2 * across - x_alone - y_alone),
        "mmd2": max(0.0, k_x + k_y - 2 * k_across),
        "gaussian_w2": gaussian_w2(x.T @ x / len(x), y.T @ y / len(y)),
    }


def gaussian_w2(one: Tensor, other: Tensor) -> float:
    """sqrt(tr(A) + tr(B) - 2 tr((A^1/2 B A^1/2)^1/2)) of two covariances (D, D)."""
    values, vectors = torch.linalg.eigh(one)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    return float((one.trace() + other.trace() - 2 * cross).clamp(min=0).sqrt())


def linear_cka(image_features: Tensor, text_features: Tensor) -> float:
    """Centred kernel alignment |X^T Y|^2 / (|X^T X| |Y^T Y|) of paired rows; 1 for equal shapes, blind to an offset."""
    x, y = centred(image_features), centred(text_features)
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()).clamp(min=1e-300))
