"""Zero-shot classification: the nearest class direction.

Axis letters: N images, C classes, D dimensions.
"""

from collections.abc import Sequence

from torch import Tensor


def zero_shot_accuracy(
    image_features: Tensor, class_features: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Share of images whose class is among the k nearest class directions.

    Args:
        image_features: unit-norm (N, D).
        class_features: unit-norm (C, D).
        labels: int64 (N,), the class of each image.
        ks: cut-offs; those above C are left out.

    Returns:
        ``acc1``, ``acc5``: fractions in [0, 1].
    """
    ks = [k for k in ks if k <= len(class_features)]
    best = (image_features @ class_features.T).topk(max(ks), dim=1).indices
    hits = best == labels.unsqueeze(1)
    return {f"acc{k}": float(hits[:, :k].any(dim=1).double().mean()) for k in ks}
