"""Zero-shot classification: the nearest class direction.

Axis letters: N images, C classes, P prompts of a class, D dimensions.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gapless.geometry import centroid_distance
from gapless.losses import alignment_loss, intra_uniformity

MAX_UNIFORMITY = 20_000
"""Images whose uniformity is computed; of more, the first so many."""


def class_directions(prompt_features: Sequence[Tensor]) -> Tensor:
    """The direction of each class: the mean of the features of its prompts, normalised.

    Args:
        prompt_features: unit-norm (P, D) for each class.

    Returns:
        unit-norm (C, D).
    """
    return F.normalize(torch.stack([features.mean(dim=0) for features in prompt_features]), dim=-1)


def zero_shot_hits(
    image_features: Tensor, class_features: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)
) -> dict[int, Tensor]:
    """Whether each image's class is among the k nearest class directions, bool (N,) by k; ks above C are left out."""
    return _hits(image_features @ class_features.T, labels, ks)


def _hits(logits: Tensor, labels: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
    ks = [k for k in ks if k <= logits.shape[1]]
    hits = logits.topk(max(ks), dim=1).indices == labels.unsqueeze(1)
    return {k: hits[:, :k].any(dim=1) for k in ks}


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
        ``acc1``, ``acc5``, ``mean_per_class_recall``: fractions in [0, 1].
    """
    return logit_accuracy(image_features @ class_features.T, labels, ks)


def logit_accuracy(logits: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
    """The scores of :func:`zero_shot_accuracy` of logits (N, C)."""
    hits = _hits(logits, labels, ks)
    scores = {f"acc{k}": float(hit.double().mean()) for k, hit in hits.items()}
    count = torch.bincount(labels, minlength=logits.shape[1])
    right = torch.bincount(labels[logits.argmax(dim=1) == labels], minlength=logits.shape[1])
    present = count > 0
    return scores | {"mean_per_class_recall": float((right[present].double() / count[present]).mean())}


def class_baselines(labels: Tensor, classes: int) -> dict[str, float]:
    """What accuracies are read against.

    Args:
        labels: int64 (N,), the class of each image.
        classes: C.

    Returns:
        ``chance``, the accuracy of guessing, 1 / C; ``majority``, that of always naming the most frequent class.
    """
    return {"chance": 1 / classes, "majority": int(torch.bincount(labels).max()) / len(labels)}


def class_gap(image_features: Tensor, class_features: Tensor, labels: Tensor) -> dict[str, float]:
    """The gap between images and the prompts of their classes, over all images.

    Returns:
        ``centroid_distance`` between images and their true classes' directions, ``uniformity_image``, and
        ``alignment`` (mean squared distance to the true class).
    """
    true_class = class_features[labels]
    scores = {
        "centroid_distance": float(centroid_distance(image_features, true_class)),
        "alignment": float(alignment_loss(image_features, true_class)),
    }
    if len(image_features) > 1:
        scores["uniformity_image"] = float(intra_uniformity(image_features[:MAX_UNIFORMITY]))
    return scores
