"""Retrieval by counting ranks: how many candidates score higher than the right one.

Axis letters: N pairs, D dimensions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

STRIP_ELEMENTS = 2**22
"""Similarities held at once: 16 MiB in float32."""


@torch.no_grad()
def ranks(queries: Tensor, candidates: Tensor) -> Tensor:
    """Rank (0 is best) of candidate i for query i; equal scores rank by position, so that ties cannot win.

    Args:
        queries: unit-norm (N, D).
        candidates: unit-norm (N, D).

    Returns:
        int64 (N,).
    """
    n = len(queries)
    rows = max(1, STRIP_ELEMENTS // max(n, 1))
    positions = torch.arange(n, device=queries.device)
    # Results go to one tensor: small ones kept between large temporaries would fragment the heap.
    better = torch.zeros(n, dtype=torch.int64, device=queries.device)
    for start in range(0, n, rows):
        scores = queries[start : start + rows] @ candidates.T
        own = scores.diagonal(start).unsqueeze(1)
        earlier = positions < positions[start : start + rows].unsqueeze(1)
        better[start : start + rows] = ((scores > own) | ((scores == own) & earlier)).sum(dim=1)
    return better


def retrieval_recall(image_features: Tensor, text_features: Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Share of queries whose own pair is among the k best of all N, in both directions.

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (N, D); row i belongs to row i of the images.
        ks: cut-offs.

    Returns:
        clip_benchmark's names, fractions in [0, 1]: ``image_retrieval_recall@k`` (text to image) and
        ``text_retrieval_recall@k`` (image to text).
    """
    image_ranks, text_ranks = ranks(text_features, image_features), ranks(image_features, text_features)
    scores = {f"image_retrieval_recall@{k}": float((image_ranks < k).double().mean()) for k in ks}
    return scores | {f"text_retrieval_recall@{k}": float((text_ranks < k).double().mean()) for k in ks}
