"""Uniformity within and across modalities: how evenly features spread over the sphere.

Each function is a training term and, over a whole data set, a metric. Similarities are formed in strips of
rows, so that without gradients memory grows with N and not with N^2.
Axis letters: N pairs, D dimensions, G kinds of identity.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gapless.losses.pairs import EXCLUDED, excluded_pairs
from gapless.losses.strips import strips


def intra_uniformity(features: Tensor, t: float = 2.0, groups: Tensor | None = None) -> Tensor:
    r"""Uniformity of one modality (Wang & Isola 2020): log-mean of the Gaussian kernel over distinct pairs.

    .. math:: U(x) = \log \frac{2}{N(N-1)} \sum_{i<j} e^{-t |x_i - x_j|^2}

    Args:
        features: unit-norm (N, D), N of at least 2.
        t: width of the kernel.
        groups: int64 (N, G); pairs that share a number are left out.

    Returns:
        A scalar in [-4t, 0]: 0 when all points coincide, near -2t (at most) when spread over a wide sphere.
    """
    return _log_mean_kernel(features, features, t, groups)


def uniformity_loss(
    image_features: Tensor, text_features: Tensor, t: float = 2.0, groups: Tensor | None = None
) -> Tensor:
    """Mean of the two modalities' :func:`intra_uniformity` (contrastive-gap paper, Eq. 2-3).

    The paper prints a factor 1/N over all pairs; its code and its tables, as here, take the mean over distinct pairs.
    """
    return (intra_uniformity(image_features, t, groups) + intra_uniformity(text_features, t, groups)) / 2


def cross_uniformity_loss(
    image_features: Tensor, text_features: Tensor, t: float = 2.0, groups: Tensor | None = None
) -> Tensor:
    r"""Uniformity across modalities (contrastive-gap paper, Eq. 4), matching pairs left out.

    .. math:: XU(x, y) = \log \frac{1}{N(N-1)} \sum_{i \ne j} e^{-t |x_i - y_j|^2}

    Args:
        image_features: unit-norm (N, D), N of at least 2.
        text_features: unit-norm (N, D).
        t: width of the kernel.
        groups: int64 (N, G); pairs that share a number are left out.

    Returns:
        A scalar in [-4t, 0]; it pushes every image away from every other image's text.
    """
    return _log_mean_kernel(image_features, text_features, t, groups)


def centroid_uniformity_loss(
    image_features: Tensor, text_features: Tensor, t: float = 2.0, groups: Tensor | None = None
) -> Tensor:
    """:func:`intra_uniformity` of the normalised midpoints of the pairs (ModGap; Grassucci et al. 2026)."""
    return intra_uniformity(midpoints(image_features, text_features), t, groups)


def midpoints(image_features: Tensor, text_features: Tensor) -> Tensor:
    """The unit-norm point (N, D) halfway between each image and its text."""
    return F.normalize(image_features + text_features, dim=1)


def cross_attraction_loss(image_features: Tensor, text_features: Tensor, t: float = 2.0) -> Tensor:
    r"""Minus the log-mean kernel over all N^2 cross-modal pairs (CS-Aligner; Yin et al. 2026).

    .. math:: XA(x, y) = -\log \frac{1}{N^2} \sum_{ij} e^{-t |x_i - y_j|^2}

    The cross term of the Cauchy-Schwarz divergence of the two clouds; it pulls them over each other where
    :func:`cross_uniformity_loss`, of the opposite sign, pushes.

    Returns:
        A scalar in [0, 4t].
    """
    kernel = (2 * t * (image_features @ text_features.T - 1)).exp()
    return -kernel.mean().log()


def _log_mean_kernel(x: Tensor, y: Tensor, t: float, groups: Tensor | None = None) -> Tensor:
    """log of the mean of exp(-t |x_i - y_j|^2) over the pairs that repel, for unit-norm rows."""
    n = len(x)
    if n < 2:
        raise ValueError(f"uniformity needs at least 2 pairs, got {n}")
    if groups is None and not (torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)):
        return log_mean(_kernel_sum(x, y, t), n * (n - 1)).to(x.dtype)
    total = count = x.new_zeros((), dtype=torch.float64)
    for strip in strips(n, n):
        exponent = 2 * t * (x[strip] @ y.T - 1)  # -t |x - y|^2 on the unit sphere
        excluded = excluded_pairs(n, groups, strip, x.device)
        # Excluded before the sum: subtracting afterwards would cancel digits.
        total = total + exponent.masked_fill(excluded, EXCLUDED).exp().sum().double()
        count = count + excluded.logical_not().sum()
    return log_mean(total, count).to(x.dtype)


def _kernel_sum(x: Tensor, y: Tensor, t: float) -> Tensor:
    """Sum of the kernel over i != j, in place; a cloud with itself costs half."""
    n, alone = len(x), x is y
    total = x.new_zeros((), dtype=torch.float64)
    for strip in strips(n, n):
        first = strip.start if alone else 0
        s = x[strip] @ y[first:].T
        rows = torch.arange(len(s), device=s.device)
        s[rows, rows + strip.start - first] = EXCLUDED
        s.sub_(1).mul_(2 * t).exp_()
        whole = s.sum(dtype=torch.float64)
        # A square on the diagonal has both orders of its pairs; all that lies beyond it stands for two.
        total += 2 * whole - s[:, : len(s)].sum(dtype=torch.float64) if alone else whole
    return total


def log_mean(total: Tensor, count: Tensor | int) -> Tensor:
    """log(total / count); 0 over nothing, if every pair of a batch is a duplicate."""
    count = torch.as_tensor(count, device=total.device)
    return (torch.where(count > 0, total, 1.0) / count.clamp(min=1)).log()
