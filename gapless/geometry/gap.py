"""Where two clouds of embeddings lie: the metrics of the contrastive gap.

Axis letters: N pairs, D dimensions.
"""

import warnings

import torch
from torch import Tensor

from gapless.geometry.spectrum import effective_dimension
from gapless.losses import alignment_loss, cross_uniformity_loss, intra_uniformity


def centroid_distance(image_features: Tensor, text_features: Tensor) -> float:
    """Distance of the two centroids, |mean(x) - mean(y)|, not squared.

    The contrastive-gap paper prints the square, but its code and its tables are unsquared.

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (M, D).

    Returns:
        0 (no gap between the centres) to 2.
    """
    centroids = (features.mean(dim=0, dtype=torch.float64) for features in (image_features, text_features))
    return float((next(centroids) - next(centroids)).norm())


def linear_separability(image_features: Tensor, text_features: Tensor, seed: int = 0) -> float:
    """Held-out accuracy of a linear probe that tells images from texts.

    Logistic regression (C = 1, no scaling) on a random 80 % of the pairs, accuracy on the other 20 %. Both
    halves of a pair lie on the same side of the split; with M other than N, each modality is split by itself.

    Args:
        image_features: (N, D), N of at least 5.
        text_features: (M, D), M of at least 5.
        seed: of the split.

    Returns:
        0.5 (the modalities are mixed) to 1 (a hyperplane separates them).
    """
    return float(separability_hits(image_features, text_features, seed)[0].double().mean())


def separability_hits(image_features: Tensor, text_features: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """What :func:`linear_separability` is the mean of.

    Returns:
        Whether the probe is right about each held-out image, then each held-out text, bool (H,); and their rows,
        int64 (H,).
    """
    from sklearn.exceptions import ConvergenceWarning  # takes a second, which other commands should not wait
    from sklearn.linear_model import LogisticRegression

    sides = [image_features, text_features]
    n, m = map(len, sides)
    if min(n, m) < 5:
        raise ValueError(f"linear separability needs at least 5 pairs, got {min(n, m)}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)
    orders = [order, order if m == n else torch.randperm(m, generator=generator)]
    fitted, held_out = ([o[: round(0.8 * len(o))] for o in orders], [o[round(0.8 * len(o)) :] for o in orders])
    parts = []
    for chosen in (fitted, held_out):
        points = torch.cat([side[index] for side, index in zip(sides, chosen, strict=True)]).float().cpu().numpy()
        labels = torch.arange(2).repeat_interleave(torch.tensor([len(index) for index in chosen])).numpy()
        parts.append((points, labels))
    with warnings.catch_warnings():
        # Separable clouds move the optimum to infinity; the accuracy is settled long before.
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe = LogisticRegression(max_iter=1000).fit(*parts[0])
    return torch.from_numpy(probe.predict(parts[1][0]) == parts[1][1]), torch.cat(held_out)


@torch.no_grad()
def gap_metrics(image_features: Tensor, text_features: Tensor, seed: int = 0) -> dict[str, float]:
    """Every gap metric of a set of pairs, over all of it, in strips (memory grows with N, not N^2).

    Args:
        image_features: unit-norm (N, D), N of at least 5.
        text_features: unit-norm (N, D); row i belongs to row i of the images.
        seed: of the separability split.

    Returns:
        ``centroid_distance``, ``linear_separability``, ``uniformity_image``, ``uniformity_text``, ``uniformity``,
        ``cross_uniformity``, ``alignment``, ``effective_dim_image``, ``effective_dim_text``.
    """
    x, y = image_features, text_features
    smooth = smooth_measures(x, y)
    return {
        "centroid_distance": smooth["centroid_distance"],
        "linear_separability": linear_separability(x, y, seed),
        **smooth,
        "effective_dim_image": float(effective_dimension(x)),
        "effective_dim_text": float(effective_dimension(y)),
    }


@torch.no_grad()
def smooth_measures(image_features: Tensor, text_features: Tensor) -> dict[str, float]:
    """Those of :func:`gap_metrics` that change little where a few pairs do."""
    x, y = image_features, text_features
    uniformity_image, uniformity_text = float(intra_uniformity(x)), float(intra_uniformity(y))
    return {
        "centroid_distance": centroid_distance(x, y),
        "uniformity_image": uniformity_image,
        "uniformity_text": uniformity_text,
        "uniformity": (uniformity_image + uniformity_text) / 2,
        "cross_uniformity": float(cross_uniformity_loss(x, y)),
        "alignment": float(alignment_loss(x, y)),
    }
