"""How sure a measure of a set of pairs is that is no mean over them: the jackknife over blocks of pairs."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

BLOCKS = 20


def pseudo_values(
    measure: Callable[[Tensor, Tensor], Mapping[str, float]],
    image_features: Tensor,
    text_features: Tensor,
    groups: Tensor | None = None,
    blocks: int = BLOCKS,
) -> dict[str, Tensor]:
    r"""Pseudo-values of measures, of which each block of pairs is left out once (Tukey 1958).

    .. math:: p_b = B \theta - (B - 1) \theta_{-b}

    They are to a measure what samples are to a mean: their standard error is that of the measure, and two models'
    pseudo-values on the same pairs are compared block by block.

    Args:
        measure: function of the features of pairs, smooth in them.
        image_features: (N, D).
        text_features: (N, D).
        groups: int64 (N,), of pairs that stay together; None where each is alone.
        blocks: B; at most as many as there are groups.

    Returns:
        float64 (B,) by the measures' names.

    Raises:
        ValueError: fewer than two groups.
    """
    rows = torch.arange(len(image_features)) if groups is None else torch.unique(groups, return_inverse=True)[1]
    blocks = min(blocks, int(rows.max()) + 1)
    if blocks < 2:
        raise ValueError("a jackknife needs at least two groups of pairs")
    # At random, lest neighbours in the data, which resemble each other, become one block.
    block_of = torch.randperm(int(rows.max()) + 1, generator=torch.Generator().manual_seed(0))[rows] % blocks
    whole = measure(image_features, text_features)
    values: dict[str, list[float]] = {name: [] for name in whole}
    for block in range(blocks):
        kept = block_of != block
        for name, value in measure(image_features[kept], text_features[kept]).items():
            values[name].append(blocks * whole[name] - (blocks - 1) * value)
    return {name: torch.tensor(v, dtype=torch.float64) for name, v in values.items()}
