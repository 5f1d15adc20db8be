"""The contrastive losses: CLIP's softmax and SigLIP's sigmoid.

Axis letters: N pairs, D dimensions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def clip_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float) -> Tensor:
    r"""CLIP's symmetric cross-entropy over all pairs of a batch (contrastive-gap paper, Eq. 1).

    .. math:: L = -\frac{1}{2N} \sum_i \log \frac{e^{s x_i y_i}}{\sum_j e^{s x_i y_j}}
                  + \log \frac{e^{s x_i y_i}}{\sum_j e^{s x_j y_i}}

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (N, D); row i belongs to row i of the images.
        logit_scale: s, the inverse temperature (already exponentiated).

    Returns:
        A scalar of at least 0; log N when all similarities are equal.
    """
    logits = logit_scale * (image_features @ text_features.T)
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def siglip_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float, logit_bias: Tensor | float
) -> Tensor:
    r"""SigLIP's pairwise sigmoid loss (Zhai et al. 2023, Eq. 1), summed over the N^2 pairs and divided by N.

    .. math:: L = -\frac{1}{N} \sum_{ij} \log \sigma(z_{ij} (s x_i y_j + b)), \quad z_{ii} = 1, z_{i \ne j} = -1

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (N, D).
        logit_scale: s, the inverse temperature.
        logit_bias: b; SigLIP starts at -10.

    Returns:
        A scalar of at least 0, near 0 when pairs lie above and all others below the bias.
    """
    logits = logit_scale * (image_features @ text_features.T) + logit_bias
    signs = 2 * torch.eye(len(logits), device=logits.device, dtype=logits.dtype) - 1
    return -F.logsigmoid(signs * logits).sum() / len(logits)
