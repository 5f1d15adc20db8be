"""Retrieval by counting ranks: how many candidates score higher than the right one.

Axis letters: N images, T texts, D dimensions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gapless.losses.strips import strips


@torch.no_grad()
def retrieval_ranks(
    image_features: Tensor, text_features: Tensor, image_of_text: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Rank (0 is best) of each text's image among the images, and of each image's best text among the texts.

    An image's own other texts do not count against its best one. Equal scores rank by position, so that ties cannot
    win. One pass over the similarities gives both directions.

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (T, D).
        image_of_text: int64 (T,), the image that each text belongs to; None for text i to image i. Every image has
            at least one text.

    Returns:
        int64 (T,) and (N,).
    """
    n, device = len(image_features), image_features.device
    owner = torch.arange(n, device=device) if image_of_text is None else image_of_text
    order = torch.argsort(owner, stable=True)
    owner, texts = owner[order], text_features[order]
    starts = torch.searchsorted(owner, torch.arange(n + 1, device=device))
    own = torch.empty(len(texts), device=device, dtype=texts.dtype)
    for strip in strips(n, len(texts)):
        mine = slice(int(starts[strip.start]), int(starts[strip.stop]))
        block = image_features[strip] @ texts[mine].T
        own[mine] = block[owner[mine] - strip.start, torch.arange(block.shape[1], device=device)]
    best, best_text = _best_of_each(own, owner, n)
    image_ranks, text_ranks = torch.zeros_like(owner), torch.zeros(n, dtype=torch.int64, device=device)
    positions = torch.arange(len(texts), device=device)
    for strip in strips(n, len(texts)):
        mine = slice(int(starts[strip.start]), int(starts[strip.stop]))
        scores = image_features[strip] @ texts.T
        scores[owner[mine] - strip.start, positions[mine]] = -torch.inf
        image_ranks += _count_above(scores.T, own, owner, torch.arange(strip.start, strip.stop, device=device))
        text_ranks[strip] = _count_above(scores, best[strip], best_text[strip], positions)
    unsorted = torch.empty_like(image_ranks)
    unsorted[order] = image_ranks
    return unsorted, text_ranks


def _best_of_each(own: Tensor, owner: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Score and position of the best text of each image; of equal ones the first."""
    best = own.new_full((n,), -torch.inf).scatter_reduce(0, owner, own, "amax")
    positions = torch.arange(len(own), device=own.device).masked_fill(own < best[owner], len(own))
    first = torch.full((n,), len(own), device=own.device).scatter_reduce(0, owner, positions, "amin")
    return best, first


def _count_above(scores: Tensor, own: Tensor, position: Tensor, positions: Tensor) -> Tensor:
    """How many scores of each row are above its own, or equal to it and at an earlier position."""
    above = (scores > own[:, None]).sum(dim=1)
    tied = (scores >= own[:, None]).sum(dim=1) > above
    if bool(tied.any()):
        rows = scores[tied] == own[tied, None]
        above[tied] += (rows & (positions < position[tied, None])).sum(dim=1)
    return above


def recall_at(image_ranks: Tensor, text_ranks: Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Scores of ranks: recall@k in both directions by clip_benchmark's names, mean and median rank (1 is best)."""
    scores: dict[str, float] = {}
    for name, ranks in (("image_retrieval", image_ranks), ("text_retrieval", text_ranks)):
        scores |= {f"{name}_recall@{k}": float((ranks < k).double().mean()) for k in ks}
    for name, ranks in (("image_retrieval", image_ranks), ("text_retrieval", text_ranks)):
        scores[f"{name}_mean_rank"] = float(ranks.double().mean()) + 1
        scores[f"{name}_median_rank"] = float(ranks.double().median()) + 1
    return scores


def retrieval_recall(
    image_features: Tensor,
    text_features: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    image_of_text: Tensor | None = None,
) -> dict[str, float]:
    """Share of queries that find what belongs to them among the k best, in both directions.

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (T, D).
        ks: cut-offs.
        image_of_text: int64 (T,), the image of each text; None for text i to image i (the contrastive-gap paper's
            protocol). An image finds what belongs to it if any of its texts is among the k best.

    Returns:
        clip_benchmark's names, fractions in [0, 1]: ``image_retrieval_recall@k`` (text to image) and
        ``text_retrieval_recall@k`` (image to text).
    """
    scores = recall_at(*retrieval_ranks(image_features, text_features, image_of_text), ks)
    return {name: value for name, value in scores.items() if "recall" in name}
