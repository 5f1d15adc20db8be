"""Who is near whom: whether the modalities mix, and whether pairs find each other.

Axis letters: N pairs, D dimensions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gapless.losses.strips import strips


@torch.no_grad()
def mixing(image_features: Tensor, text_features: Tensor, ks: Sequence[int] = (1, 10)) -> dict[str, float]:
    """Share of the k nearest neighbours, among images and texts together, that are of the query's own modality.

    A query is no neighbour of itself, and its pair is left out.

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (N, D).
        ks: numbers of neighbours; those above 2 N - 2 count all of them.

    Returns:
        ``mixing@k``: 0.5 (mixed) to 1 (no neighbour is of the other modality); below 0.5 neighbours are rather of the
        other.
    """
    n, together = len(image_features), torch.cat([image_features, text_features])
    most = {k: min(k, 2 * n - 2) for k in ks}
    same = dict.fromkeys(ks, 0)
    for rows in strips(2 * n, 2 * n):
        similarity = together[rows] @ together.T
        index = torch.arange(rows.start, rows.stop)
        here = torch.arange(len(index))
        similarity[here, index] = similarity[here, (index + n) % (2 * n)] = -torch.inf
        nearest = similarity.topk(max(most.values()), dim=1).indices
        own = (nearest >= n) == (index >= n)[:, None]
        for k in ks:
            same[k] += int(own[:, : most[k]].sum())
    return {f"mixing@{k}": same[k] / (2 * n * most[k]) for k in ks}


@torch.no_grad()
def pair_neighbours(image_features: Tensor, text_features: Tensor, temperature: float = 0.01) -> dict[str, float]:
    """Whether pairs are each other's nearest neighbours, and whether softmax matching is doubly stochastic.

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (N, D).
        temperature: of the softmax, CLIP's.

    Returns:
        ``relative_alignment``: share of pairs that are nearest to each other both ways (bug-or-feature, Fig. 3).
        ``stochasticity_image`` and ``stochasticity_text``: variance over points of the sum of all softmax weights that
        a point receives from the other modality; 0 where the matching is doubly stochastic (Theorem 3.2).
    """
    x, y, n = image_features.float(), text_features.float(), len(image_features)
    own = (x * y).sum(dim=1)
    best_text = torch.full((n,), -torch.inf)
    highest = torch.full((n,), -torch.inf)  # of each column's logits so far, and the sum of exp below it
    total, to_texts = torch.zeros(n), torch.zeros(n, dtype=torch.float64)
    row_best = torch.empty(n)
    for rows in strips(n, n):
        logits = x[rows] @ y.T
        row_best[rows] = logits.max(dim=1).values
        best_text = torch.maximum(best_text, logits.max(dim=0).values)
        logits = logits / temperature
        to_texts += logits.softmax(dim=1).double().sum(dim=0)
        new = torch.maximum(highest, logits.max(dim=0).values)
        total = total * (highest - new).exp() + (logits - new).exp().sum(dim=0)
        highest = new
    to_images = torch.zeros(n, dtype=torch.float64)
    for rows in strips(n, n):
        weights = (x[rows] @ y.T / temperature - highest).exp() / total
        to_images[rows] = weights.double().sum(dim=1)
    # A pair is its own best up to rounding of the matrix product.
    mutual = (own >= row_best - 1e-6) & (own >= best_text - 1e-6)
    return {
        "relative_alignment": float(mutual.double().mean()),
        "stochasticity_image": float(to_images.var(correction=0)),
        "stochasticity_text": float(to_texts.var(correction=0)),
    }


@torch.no_grad()
def mutual_knn(image_features: Tensor, text_features: Tensor, k: int = 10) -> float:
    """Mean share of the k nearest images of an image whose texts are among the k nearest texts of its text.

    It compares the shapes of the clouds and is blind to their offset (Huh et al. 2024).

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (N, D).
        k: less than N.
    """
    n = len(image_features)
    k, shared = min(k, n - 1), 0
    for rows in strips(n, n):
        index = torch.arange(rows.start, rows.stop)
        near = torch.zeros(2, len(index), n, dtype=torch.bool)
        for side, features in enumerate((image_features, text_features)):
            similarity = features[rows] @ features.T
            similarity[torch.arange(len(index)), index] = -torch.inf
            near[side].scatter_(1, similarity.topk(k, dim=1).indices, True)
        shared += int((near[0] & near[1]).sum())
    return shared / (n * k)
