"""The whole picture of a gap, its uncertainty, and what may be said of it.

Axis letters: N images, M texts, D dimensions, B resamples.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from gapless.geometry.distribution import distribution_gap, linear_cka
from gapless.geometry.gap import centroid_distance, gap_metrics, linear_separability
from gapless.geometry.neighbours import mixing, mutual_knn, pair_neighbours
from gapless.geometry.spectrum import effective_dimension, effective_rank
from gapless.geometry.statistics import Definition, cosine_statistics, gap_statistics
from gapless.losses import alignment_loss, intra_uniformity

PAIRWISE = 50_000
"""Images and texts that uniformity, cross-uniformity and separability are measured on, at most."""
SAMPLE = 5_000
"""Pairs that neighbours and distributions are measured on, at most."""
GROUP = 100
CLOSED = 0.1
"""Largest centroid distance, and largest distance of separability and mixing from 0.5, of a closed gap."""
FALL = 0.9
"""Share of its former effective rank below which a space counts as collapsed."""
CONE = 0.9
"""Mean cosine within a modality above which it counts as collapsed."""


@torch.no_grad()
def whole_gap(
    image_features: Tensor,
    text_features: Tensor,
    gamma: float = 0.99,
    definition: Definition = "paper",
    temperature: float = 0.01,
    seed: int = 0,
) -> dict[str, float]:
    """Every measure of the gap; those that need pairs only where there are as many images as texts.

    What grows with N^2 is measured on random rows of large sets: see PAIRWISE and SAMPLE.

    Args:
        image_features: unit-norm (N, D), N of at least 5.
        text_features: unit-norm (M, D), M of at least 5; with M = N, row i belongs to image i.
        gamma: share of the variance of the effective dimensions.
        definition: of :func:`gap_statistics`.
        temperature: of the softmax in :func:`pair_neighbours`.
        seed: of the separability split, of groups, and of the sample for neighbours and distributions.

    Returns:
        What :func:`gap_metrics` gives and ``centroid_distance_squared``, ``effective_rank_image`` and ``_text`` and
        ``_union`` (of both together, each minus its mean), and everything of cosine_statistics, gap_statistics (from
        3 groups on), pair_neighbours, distribution_gap, ``mixing@1``, ``mixing@10``, ``mutual_knn@10``, ``cka``;
        ``num_sampled`` of the last seven.
    """
    x, y = image_features, text_features
    paired = len(x) == len(y)
    a, b = _sample(x, PAIRWISE, seed), _sample(y, PAIRWISE, seed)
    measures = gap_metrics(a, b, seed) if paired else _unpaired(a, b, seed)
    distance = centroid_distance(x, y)
    measures |= {
        "centroid_distance": distance,
        "centroid_distance_squared": distance**2,
        "effective_dim_image": float(effective_dimension(x, gamma)),
        "effective_dim_text": float(effective_dimension(y, gamma)),
        "effective_rank_image": effective_rank(x),
        "effective_rank_text": effective_rank(y),
        "effective_rank_union": effective_rank(torch.cat([x - x.mean(dim=0), y - y.mean(dim=0)])),
    }
    measures |= cosine_statistics(x, y)
    if paired:
        measures["alignment"] = float(alignment_loss(x, y))
    if paired and len(x) >= 3 * GROUP:
        measures |= gap_statistics(x, y, GROUP, definition, seed)
    a, b = _sample(x, SAMPLE, seed), _sample(y, SAMPLE, seed)
    measures |= {"num_sampled": float(len(a))} | distribution_gap(a, b)
    if paired:
        measures |= pair_neighbours(a, b, temperature) | mixing(a, b)
        measures |= {"mutual_knn@10": mutual_knn(a, b), "cka": linear_cka(a, b)}
    return measures


def _sample(features: Tensor, most: int, seed: int) -> Tensor:
    """The same rows of both modalities."""
    if len(features) <= most:
        return features
    return features[torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:most]]


def _unpaired(x: Tensor, y: Tensor, seed: int) -> dict[str, float]:
    uniformity = float(intra_uniformity(x)), float(intra_uniformity(y))
    return {
        "centroid_distance": centroid_distance(x, y),
        "linear_separability": linear_separability(x, y, seed),
        "uniformity_image": uniformity[0],
        "uniformity_text": uniformity[1],
        "uniformity": sum(uniformity) / 2,
    }


@torch.no_grad()
def bootstrap_gap(
    image_features: Tensor, text_features: Tensor, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals, over pairs, of the measures that are functions of sums.

    A resample gives every pair a number of times; a pair drawn twice is not compared with itself.

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (N, D).
        resamples: B.
        level: of the intervals.
        seed: of the resamples.

    Returns:
        Lower and upper end of ``centroid_distance``, ``alignment``, ``pair_cosine``, ``non_pair_cosine``,
        ``cone_image`` and ``cone_text``.
    """
    x, y = image_features.double(), text_features.double()
    n, generator = len(x), torch.Generator().manual_seed(seed)
    cosine = (x * y).sum(dim=1)
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        times = torch.bincount(torch.randint(n, (n,), generator=generator), minlength=n).double()
        sums = times @ x, times @ y
        others = n * n - float(times.square().sum())
        pair = float(times @ cosine) / n
        values = {
            "centroid_distance": float((sums[0] - sums[1]).norm()) / n,
            "alignment": 2 - 2 * pair,
            "pair_cosine": pair,
            "non_pair_cosine": float(sums[0] @ sums[1] - times.square() @ cosine) / others,
            "cone_image": (float(sums[0] @ sums[0]) - float(times.square().sum())) / others,
            "cone_text": (float(sums[1] @ sums[1]) - float(times.square().sum())) / others,
        }
        for name, value in values.items():
            drawn.setdefault(name, []).append(value)
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    quantiles = {name: torch.quantile(torch.tensor(v, dtype=torch.float64), ends) for name, v in drawn.items()}
    return {name: (float(low), float(high)) for name, (low, high) in quantiles.items()}


def gap_verdict(metrics: Mapping[str, float], before: Mapping[str, float] | None = None) -> tuple[str, dict[str, str]]:
    """Whether a gap is closed, which a small centroid distance alone does not say.

    Args:
        metrics: of :func:`whole_gap`, of pairs.
        before: the same before the gap was closed; without it only the cone can tell a collapse.

    Returns:
        ``closed``, ``open`` or ``collapsed``, and each check in words.
    """
    rank = (metrics["effective_rank_image"] + metrics["effective_rank_text"]) / 2
    cone = max(metrics["cone_image"], metrics["cone_text"])
    fell = cone > CONE
    comparison = "nothing to compare with"
    if before is not None:
        former = (before["effective_rank_image"] + before["effective_rank_text"]) / 2
        fell |= rank < FALL * former
        comparison = f"was {former:.1f}"
    conditions = {
        "centroid_distance": (metrics["centroid_distance"] <= CLOSED, f"at most {CLOSED}"),
        "linear_separability": (abs(metrics["linear_separability"] - 0.5) <= CLOSED, f"0.5 within {CLOSED}"),
        "mixing@10": (abs(metrics["mixing@10"] - 0.5) <= CLOSED, f"0.5 within {CLOSED}"),
    }
    checks = {n: f"{'yes' if ok else 'no'}: {metrics[n]:.3f}, expected {aim}" for n, (ok, aim) in conditions.items()}
    words = f"{rank:.1f}, {comparison}; mean cosine within a modality {cone:.2f}"
    checks["effective_rank"] = f"{'no' if fell else 'yes'}: {words}"
    verdict = "collapsed" if fell else "closed" if all(ok for ok, _ in conditions.values()) else "open"
    return verdict, checks
