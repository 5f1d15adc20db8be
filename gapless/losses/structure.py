"""Terms on the shape of the clouds: CyCLIP's consistency and KoLeo's spread.

Axis letters: N pairs, D dimensions, G kinds of identity.
"""

import torch
from torch import Tensor

from gapless.losses.pairs import EXCLUDED, excluded_pairs
from gapless.losses.strips import strips

KOLEO_EPS = 1e-8


def cyclip_in_modal_loss(image_features: Tensor, text_features: Tensor) -> Tensor:
    r"""CyCLIP's in-modal consistency (Goel et al. 2022): two images lie as near as their texts.

    .. math:: \frac{1}{N} \sum_{ij} (x_i x_j - y_i y_j)^2 = \frac{1}{N} (|X^T X|^2 + |Y^T Y|^2 - 2 |X^T Y|^2)

    Computed by the right-hand side, D x D moments in float64, in time that grows with N.

    Args:
        image_features: (N, D).
        text_features: (N, D).

    Returns:
        A scalar of at least 0. CyCLIP weights it by 0.25.
    """
    x, y = image_features.double(), text_features.double()
    total = (x.T @ x).square().sum() + (y.T @ y).square().sum() - 2 * (x.T @ y).square().sum()
    return (total / len(x)).to(image_features.dtype)


def cyclip_cross_modal_loss(image_features: Tensor, text_features: Tensor) -> Tensor:
    r"""CyCLIP's cross-modal consistency (Goel et al. 2022): image i is as near text j as text i is image j.

    .. math:: \frac{1}{N} \sum_{ij} (x_i y_j - x_j y_i)^2
              = \frac{2}{N} (\langle X^T X, Y^T Y \rangle - \langle X^T Y, Y^T X \rangle)

    Arguments and range are those of :func:`cyclip_in_modal_loss`.
    """
    x, y = image_features.double(), text_features.double()
    mixed = x.T @ y
    total = 2 * (((x.T @ x) * (y.T @ y)).sum() - (mixed * mixed.T).sum())
    return (total / len(x)).to(image_features.dtype)


def cyclip_loss(image_features: Tensor, text_features: Tensor) -> Tensor:
    """The sum of CyCLIP's two parts, :func:`cyclip_in_modal_loss` and :func:`cyclip_cross_modal_loss`."""
    return cyclip_in_modal_loss(image_features, text_features) + cyclip_cross_modal_loss(image_features, text_features)


def koleo_loss(image_features: Tensor, text_features: Tensor, groups: Tensor | None = None) -> Tensor:
    r"""KoLeo entropy of each modality (Sablayrolles et al. 2019), the mean of both.

    .. math:: K(x) = -\frac{1}{N} \sum_i \log \min_{j \ne i} |x_i - x_j|

    Args:
        image_features: unit-norm (N, D), N of at least 2.
        text_features: unit-norm (N, D).
        groups: int64 (N, G); pairs that share a number are no neighbours.

    Returns:
        A scalar of at least -log 2; small when every point keeps its distance.
    """
    everyone = slice(0, len(image_features))
    return sum_of_koleo(image_features, text_features, groups, everyone) / len(image_features)


def sum_of_koleo(image_features: Tensor, text_features: Tensor, groups: Tensor | None, rows: slice) -> Tensor:
    """The part of N times :func:`koleo_loss` that some rows give."""
    total = image_features.new_zeros(())
    for features in (image_features, text_features):
        nearest, alone = _nearest(features.detach(), groups, rows)
        distance = (features[rows] - features[nearest]).norm(dim=1)
        total = total - (distance + KOLEO_EPS).log().masked_fill(alone, 0.0).sum() / 2
    return total


def _nearest(x: Tensor, groups: Tensor | None, rows: slice) -> tuple[Tensor, Tensor]:
    """Index of each row's nearest neighbour, and whether it has none."""
    if len(x) < 2:
        raise ValueError(f"koleo needs at least 2 pairs, got {len(x)}")
    nearest, alone = [], []
    for strip in strips(rows, len(x)):
        similar = x[strip] @ x.T
        best = similar.masked_fill_(excluded_pairs(len(x), groups, strip, x.device), EXCLUDED).max(dim=1)
        nearest.append(best.indices)
        alone.append(best.values == EXCLUDED)
    empty = torch.zeros(0, dtype=torch.long, device=x.device)
    return torch.cat([empty, *nearest]), torch.cat([empty.bool(), *alone])
