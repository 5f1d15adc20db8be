"""Uniformity within and across modalities: how evenly features spread over the sphere.

Each function is a training term and, over a whole data set, a metric. Similarities are formed in strips of
rows, so that without gradients memory grows with N and not with N^2.
Axis letters: N pairs, D dimensions.
"""

import torch
from torch import Tensor

STRIP_ELEMENTS = 2**24
"""Similarities held at once: 64 MiB in float32."""


def intra_uniformity(features: Tensor, t: float = 2.0) -> Tensor:
    r"""Uniformity of one modality (Wang & Isola 2020): log-mean of the Gaussian kernel over distinct pairs.

    .. math:: U(x) = \log \frac{2}{N(N-1)} \sum_{i<j} e^{-t |x_i - x_j|^2}

    Args:
        features: unit-norm (N, D), N of at least 2.
        t: width of the kernel.

    Returns:
        A scalar in [-4t, 0]: 0 when all points coincide, near -2t (at most) when spread over a wide sphere.
    """
    return _log_mean_kernel(features, features, t)


def uniformity_loss(image_features: Tensor, text_features: Tensor, t: float = 2.0) -> Tensor:
    """Mean of the two modalities' :func:`intra_uniformity` (contrastive-gap paper, Eq. 2-3).

    The paper prints a factor 1/N over all pairs; its code and its tables, as here, take the mean over distinct pairs.
    """
    return (intra_uniformity(image_features, t) + intra_uniformity(text_features, t)) / 2


def cross_uniformity_loss(image_features: Tensor, text_features: Tensor, t: float = 2.0) -> Tensor:
    r"""Uniformity across modalities (contrastive-gap paper, Eq. 4), matching pairs left out.

    .. math:: XU(x, y) = \log \frac{1}{N(N-1)} \sum_{i \ne j} e^{-t |x_i - y_j|^2}

    Args:
        image_features: unit-norm (N, D), N of at least 2.
        text_features: unit-norm (N, D).
        t: width of the kernel.

    Returns:
        A scalar in [-4t, 0]; it pushes every image away from every other image's text.
    """
    return _log_mean_kernel(image_features, text_features, t)


def _log_mean_kernel(x: Tensor, y: Tensor, t: float) -> Tensor:
    """log of the mean of exp(-t |x_i - y_j|^2) over i != j, for unit-norm rows."""
    n = len(x)
    if n < 2:
        raise ValueError(f"uniformity needs at least 2 pairs, got {n}")
    rows = max(1, STRIP_ELEMENTS // n)
    total = x.new_zeros((), dtype=torch.float64)
    for start in range(0, n, rows):
        exponent = 2 * t * (x[start : start + rows] @ y.T - 1)  # -t |x - y|^2 on the unit sphere
        # The diagonal is removed before the sum: subtracting it afterwards would cancel digits.
        exponent.diagonal(start).fill_(-torch.inf)
        total = total + exponent.exp().sum().double()
    return (total / (n * (n - 1))).log().to(x.dtype)
