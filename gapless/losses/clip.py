"""Losses that tell the matching text from the others: CLIP's softmax, SimCLR's, and SigLIP's sigmoid.

Axis letters: N pairs, D dimensions, G kinds of identity.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gapless.losses.pairs import EXCLUDED, excluded_pairs, softplus


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    hardness: float = 0.0,
    groups: Tensor | None = None,
) -> Tensor:
    r"""CLIP's symmetric cross-entropy over all pairs of a batch (contrastive-gap paper, Eq. 1).

    .. math:: L = -\frac{1}{2N} \sum_i \log \frac{e^{s x_i y_i}}{\sum_j e^{s x_i y_j}}
                  + \log \frac{e^{s x_i y_i}}{\sum_j e^{s x_j y_i}}

    With a hardness b, negatives are weighted by how hard they are (HN-NCE with alpha = 1; Radenovic et al. 2023,
    after Robinson et al. 2021): :math:`e^{s x_i y_j}` is multiplied by
    :math:`(N-1) e^{b s x_i y_j} / \sum_{k \ne i} e^{b s x_i y_k}`.

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (N, D); row i belongs to row i of the images.
        logit_scale: s, the inverse temperature (already exponentiated).
        hardness: b of at least 0; 0 weights all negatives alike.
        groups: int64 (N, G); pairs that share a number are no negatives of each other.

    Returns:
        A scalar of at least 0; log N when all similarities are equal.
    """
    logits = logit_scale * (image_features @ text_features.T)
    labels = torch.arange(len(logits), device=logits.device)
    if hardness == 0 and groups is None:
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    excluded = excluded_pairs(len(logits), groups, slice(0, len(logits)), logits.device)
    count = excluded.logical_not().sum(dim=1).clamp(min=1).to(logits.dtype)
    negatives = logits.masked_fill(excluded, EXCLUDED)
    total = logits.new_zeros(())
    for repelled in (negatives, negatives.T):
        mass = repelled.mul(1 + hardness).logsumexp(dim=1)
        if hardness:
            mass = mass - repelled.mul(hardness).logsumexp(dim=1) + count.log()
        total = total + softplus(mass - logits.diagonal()).mean()
    return total / 2


def simclr_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float, groups: Tensor | None = None
) -> Tensor:
    r"""NT-Xent over the 2N points of both modalities (Chen et al. 2020, Eq. 1): other images repel an image, too.

    .. math:: L = -\frac{1}{2N} \sum_{k=1}^{2N} \log \frac{e^{s z_k z_{k'}}}{\sum_{l \ne k} e^{s z_k z_l}},
              \quad z = (x, y), \; k' \text{ the partner of } k

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (N, D).
        logit_scale: s, the inverse temperature.
        groups: int64 (N, G); pairs that share a number do not repel each other.

    Returns:
        A scalar of at least 0; log(2N - 1) when all similarities are equal.
    """
    n = len(image_features)
    both = torch.cat([image_features, text_features])
    logits = logit_scale * (both @ both.T)
    excluded = excluded_pairs(n, groups, slice(0, n), logits.device).repeat(2, 2)
    partner = torch.arange(2 * n, device=logits.device).roll(n)
    excluded[torch.arange(2 * n, device=logits.device), partner] = False
    return F.cross_entropy(logits.masked_fill(excluded, EXCLUDED), partner)


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    groups: Tensor | None = None,
) -> Tensor:
    r"""SigLIP's pairwise sigmoid loss (Zhai et al. 2023, Eq. 1), summed over the N^2 pairs and divided by N.

    .. math:: L = -\frac{1}{N} \sum_{ij} \log \sigma(z_{ij} (s x_i y_j + b)), \quad z_{ii} = 1, z_{i \ne j} = -1

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (N, D).
        logit_scale: s, the inverse temperature.
        logit_bias: b; SigLIP starts at -10.
        groups: int64 (N, G); pairs that share a number are no negatives of each other.

    Returns:
        A scalar of at least 0, near 0 when pairs lie above and all others below the bias.
    """
    n = len(image_features)
    logits = logit_scale * (image_features @ text_features.T) + logit_bias
    excluded = excluded_pairs(n, groups, slice(0, n), logits.device)
    negatives = softplus(logits.masked_fill(excluded, EXCLUDED)).sum()
    return (softplus(-logits.diagonal()).sum() + negatives) / n


def relative_siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    groups: Tensor | None = None,
) -> Tensor:
    """:func:`siglip_loss` with a bias relative to the scale, b = s c (Bangachev et al. 2025).

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (N, D).
        logit_scale: s, the inverse temperature.
        logit_bias: c, a cosine: the threshold between pairs and others.
        groups: int64 (N, G); pairs that share a number are no negatives of each other.
    """
    return siglip_loss(image_features, text_features, logit_scale, logit_scale * logit_bias, groups)
