"""Which caption belongs to which image, among a few of both.

Axis letters: I images and C captions of an instance, D dimensions.
"""

import torch
from torch import Tensor


def selection_hits(image_features: Tensor, text_features: Tensor) -> tuple[bool, bool]:
    """Whether every caption finds its image, and every image its caption, in one instance (clip_benchmark's rules).

    Args:
        image_features: unit-norm (I, D).
        text_features: unit-norm (C, D).
    """
    scores = image_features @ text_features.T
    right = torch.arange(min(scores.shape))
    by_caption = bool((scores.argmax(dim=0)[: len(right)] == right).all())
    return by_caption, bool((scores.argmax(dim=1)[: len(right)] == right).all())
