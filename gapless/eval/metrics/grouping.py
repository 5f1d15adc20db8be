"""Tasks in which images and texts are candidates side by side, where a gap between them costs most.

Axis letters: N pairs, D dimensions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gapless.losses.strips import strips


def joint_clustering(image_features: Tensor, text_features: Tensor, labels: Tensor, seed: int = 0) -> dict[str, float]:
    """k-means over images and texts together, k the number of classes.

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (N, D).
        labels: int64 (N,), of both.
        seed: of k-means, which is run ten times.

    Returns:
        ``v_measure``, ``nmi`` (its equal, by the arithmetic mean) and ``ari`` against the classes, of both modalities
        together; ``v_measure_image`` and ``v_measure_text`` of each alone; and ``modality_nmi``: how far the clusters
        tell images from texts (0 is best).
    """
    from sklearn.cluster import KMeans  # takes a second, which commands that need none should not wait
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, v_measure_score

    together = torch.cat([image_features, text_features]).numpy()
    classes = torch.cat([labels, labels]).numpy()
    n, k = len(labels), len(torch.unique(labels))
    clusters = KMeans(k, n_init=10, random_state=seed).fit_predict(together)
    scores = {
        "v_measure": v_measure_score(classes, clusters),
        "nmi": normalized_mutual_info_score(classes, clusters),
        "ari": adjusted_rand_score(classes, clusters),
        "modality_nmi": normalized_mutual_info_score([0] * n + [1] * n, clusters),
    }
    for name, rows in (("image", slice(0, n)), ("text", slice(n, 2 * n))):
        alone = KMeans(k, n_init=10, random_state=seed).fit_predict(together[rows])
        scores[f"v_measure_{name}"] = v_measure_score(classes[rows], alone)
    return {name: float(value) for name, value in scores.items()}


@torch.no_grad()
def mixed_recall(
    image_features: Tensor,
    text_features: Tensor,
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    k: int = 1,
    seed: int = 0,
) -> dict[str, float]:
    """Text to image retrieval among candidates of which a share are texts: the U-curve of mixed-modality search.

    Each text looks for its image. Of the other pairs a random share is represented by its text, the rest by its image.
    Texts that lie nearer to texts than to any image are then in the way.

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (N, D).
        shares: of the other pairs that are represented by their text, each in [0, 1].
        k: cut-off.
        seed: of the choice.

    Returns:
        ``mixed_recall@k_p``, and ``mixed_recall_calibrated@k_p`` after scores were standardised within each modality by
        mean and deviation of the first half of the queries: a baseline that leaves the geometry as it is. Over the
        second half of the queries, both.
    """
    n = len(image_features)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    turn = torch.rand(n, generator=torch.Generator().manual_seed(seed + 1))
    fit, score = order[: n // 2], order[n // 2 :]
    statistics = [_off_diagonal(text_features[fit] @ f[fit].T) for f in (image_features, text_features)]
    hits = {(p, c): 0 for p in shares for c in (False, True)}
    for strip in strips(len(score), n):
        query = score[strip]
        row = torch.arange(len(query))
        for calibrated in (False, True):
            to_image, to_text = text_features[query] @ image_features.T, text_features[query] @ text_features.T
            if calibrated:
                for scores, (mean, deviation) in zip((to_image, to_text), statistics, strict=True):
                    scores.sub_(mean).div_(deviation)
            own = to_image[row, query]
            for p in shares:
                mixed = torch.where(turn < p, to_text, to_image)
                mixed[row, query] = -torch.inf
                hits[p, calibrated] += int(((mixed >= own[:, None]).sum(dim=1) < k).sum())
    named = {False: "mixed_recall", True: "mixed_recall_calibrated"}
    return {f"{named[c]}@{k}_{p:g}": number / len(score) for (p, c), number in hits.items()}


def _off_diagonal(scores: Tensor) -> tuple[float, float]:
    """Mean and deviation of the scores of what does not belong together."""
    others = scores[~torch.eye(len(scores), dtype=torch.bool)]
    return float(others.mean()), float(others.std())


@torch.no_grad()
def intra_modal_retrieval(features: Tensor, labels: Tensor) -> dict[str, float]:
    """Retrieval within one modality: every row looks for others of its class, itself left out.

    Args:
        features: unit-norm (N, D).
        labels: int64 (N,); rows whose class no other row has are no queries.

    Returns:
        ``recall@1`` and ``map`` (mean average precision), fractions in [0, 1].
    """
    n = len(features)
    hits, precision, queries = 0, 0.0, 0
    for strip in strips(n, n):
        rows = torch.arange(strip.start, strip.stop)
        scores = features[rows] @ features.T
        scores[torch.arange(len(rows)), rows] = -torch.inf
        order = scores.argsort(dim=1, descending=True)[:, : n - 1]
        right = labels[order] == labels[rows, None]
        right = right[right.any(dim=1)]
        ranks = torch.arange(1, n)
        average = (right * right.cumsum(dim=1) / ranks).sum(dim=1) / right.sum(dim=1)
        hits, precision, queries = hits + int(right[:, 0].sum()), precision + float(average.sum()), queries + len(right)
    return {"recall@1": hits / max(1, queries), "map": precision / max(1, queries)}
