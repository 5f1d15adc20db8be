"""Alignment: how near matching pairs lie."""

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
