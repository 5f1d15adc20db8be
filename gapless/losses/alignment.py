"""Alignment: how near matching pairs, and the clouds as wholes, lie."""

from torch import Tensor


def alignment_loss(image_features: Tensor, text_features: Tensor, alpha: float = 2.0) -> Tensor:
    r"""Mean distance of matching pairs (Wang & Isola 2020; contrastive-gap paper, Eq. 5).

    .. math:: A(x, y) = \frac{1}{N} \sum_i |x_i - y_i|^\alpha

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (N, D).
        alpha: power of the distance; 2 gives 2 - 2 * mean cosine.

    Returns:
        A scalar in [0, 2^alpha]: 0 when every pair coincides.
    """
    squared = (image_features - text_features).square().sum(dim=1)
    # The power of the square keeps the gradient finite at coinciding pairs for alpha >= 2.
    return (squared if alpha == 2 else squared.pow(alpha / 2)).mean()


def centroid_loss(image_features: Tensor, text_features: Tensor) -> Tensor:
    r"""Squared distance of the two centroids, the contrastive gap as that paper prints it.

    .. math:: C(x, y) = \left| \frac{1}{N} \sum_i x_i - \frac{1}{N} \sum_i y_i \right|^2

    Returns:
        A scalar in [0, 4].
    """
    return (image_features.mean(dim=0) - text_features.mean(dim=0)).square().sum()
