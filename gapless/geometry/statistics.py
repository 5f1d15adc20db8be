"""The gap as connect-collapse-corrupt describes it: a constant, orthogonal vector and Gaussian noise around it.

e_x - e_y = c + noise (Proposition 1); five statistics say how well that holds (Table 1). Axis letters: N pairs,
D dimensions, G groups of M pairs each.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Definition = Literal["paper", "code"]


def gap_statistics(
    image_features: Tensor, text_features: Tensor, group: int = 100, definition: Definition = "paper", seed: int = 0
) -> dict[str, float]:
    """Mean and standard deviation of the five statistics, over random groups of pairs (the remainder is dropped).

    With d_j = x_j - y_j and d the mean of d_j in a group:

    - ``gap_length``: abs(d) of each group.
    - ``gap_direction``: cosine of the d of two groups; 1 if the gap is a constant.
    - ``gap_orthogonality``: cosine of x_j - x_k and the gap; 0 if it is orthogonal to the images.
    - ``noise_mean``: components of the mean of the noise d_j minus gap.
    - ``noise_direction``: cosine of the noise of two pairs; 0 if it is isotropic.

    ``paper`` takes the gap of the pair's own group, and all pairs of groups, of images and of noise within a group.
    ``code`` is what the authors' code does: consecutive groups; consecutive images in the order of the data against
    the mean of the group gaps; noise around the mean over all pairs, consecutive after a shuffle.

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (N, D).
        group: M, at least 2; three groups are needed, for the deviation over pairs of groups.
        definition: whose.
        seed: of the grouping.

    Returns:
        ``<name>_mean`` and ``<name>_std`` (ddof 1) of each.

    Raises:
        ValueError: fewer than three groups.
    """
    n = len(image_features)
    if group < 2 or n < 3 * group:
        raise ValueError(f"gap statistics need three groups of {group} pairs, there are {n} pairs")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)[: n // group * group]
    x, y = image_features.double(), text_features.double()
    gaps = x - y
    grouped = gaps[order].reshape(-1, group, gaps.shape[1])  # (G, M, D)
    means = grouped.mean(dim=1)
    if definition == "code":
        samples = _as_code(x, gaps, means, generator)
    else:
        samples = _as_paper(x[order].reshape(grouped.shape), grouped, means)
    samples["gap_length"] = means.norm(dim=1)
    return {
        f"{name}_{statistic}": float(value)
        for name, values in samples.items()
        for statistic, value in (("mean", values.mean()), ("std", values.std()))
    }


def _as_paper(images: Tensor, gaps: Tensor, means: Tensor) -> dict[str, Tensor]:
    orthogonality, direction = [], []
    upper = torch.triu(torch.ones(gaps.shape[1], gaps.shape[1], dtype=torch.bool), 1)
    for x, d, mean in zip(images, gaps, means, strict=True):
        along = x @ F.normalize(mean, dim=0)
        lengths = torch.cdist(x, x).clamp(min=torch.finfo(x.dtype).tiny)
        orthogonality.append(((along[:, None] - along) / lengths)[upper])
        noise = F.normalize(d - mean, dim=1)
        direction.append((noise @ noise.T)[upper])
    return {
        "gap_direction": _cosines(means)[torch.triu_indices(len(means), len(means), 1).unbind()],
        "gap_orthogonality": torch.cat(orthogonality),
        "noise_mean": (gaps - means[:, None]).mean(dim=(0, 1)),
        "noise_direction": torch.cat(direction),
    }


def _as_code(x: Tensor, gaps: Tensor, means: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    noise = gaps - gaps.mean(dim=0)
    shuffled = noise[torch.randperm(len(noise), generator=generator)]
    return {
        "gap_direction": F.cosine_similarity(means[1:], means[:-1]),
        "gap_orthogonality": F.cosine_similarity(x[1:] - x[:-1], means.mean(dim=0, keepdim=True)),
        "noise_mean": noise.mean(dim=0),
        "noise_direction": F.cosine_similarity(shuffled[1:], shuffled[:-1]),
    }


def _cosines(rows: Tensor) -> Tensor:
    unit = F.normalize(rows, dim=1)
    return unit @ unit.T


def cosine_statistics(image_features: Tensor, text_features: Tensor) -> dict[str, float]:
    """Mean cosines between and within the modalities, from sums alone.

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (M, D); with M = N, row i belongs to image i.

    Returns:
        ``cone_image`` and ``cone_text``, the mean cosine of two different images or texts (the cone effect, and an
        alarm of collapse near 1). With M = N also ``pair_cosine``, ``non_pair_cosine`` and ``relative_modality_gap``
        P / (P + (I_x + I_y) / 2), where P is the mean of (1 - cos) / 2 over pairs and I over two of one modality
        (Schrodi et al.).
    """
    x, y = image_features.double(), text_features.double()
    sums = x.sum(dim=0), y.sum(dim=0)
    squares = x.square().sum(), y.square().sum()
    cones = [
        float((s @ s - square) / (len(rows) * (len(rows) - 1)))
        for rows, s, square in zip((x, y), sums, squares, strict=True)
    ]
    statistics = {"cone_image": cones[0], "cone_text": cones[1]}
    if len(x) == len(y):
        pairs = float((x * y).sum())
        n = len(x)
        apart = (1 - pairs / n) / 2
        within = (2 - cones[0] - cones[1]) / 4
        statistics |= {
            "pair_cosine": pairs / n,
            "non_pair_cosine": float(sums[0] @ sums[1] - pairs) / (n * (n - 1)),
            "relative_modality_gap": apart / (apart + within) if apart + within else 0.0,
        }
    return statistics
