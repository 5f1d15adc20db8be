"""Which pairs of a batch repel each other, and how a sum over those that do becomes a loss.

Axis letters: N pairs, G kinds of identity (its image, its caption).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gapless.losses.strips import strips

EXCLUDED = -1e30
"""In place of the similarity or logit of a pair that does not repel. Its exponential is 0, and being finite it makes
no difference or product nan."""


def excluded_pairs(num_pairs: int, groups: Tensor | None, rows: slice, device: torch.device) -> Tensor:
    """Pairs (i, j) that must not repel each other: i = j, and duplicates.

    Args:
        num_pairs: N.
        groups: int64 (N, G); i and j are duplicates if they share any of their G numbers. None for no duplicates.
        rows: which i.
        device: of the result if there are no groups.

    Returns:
        bool (rows, N).
    """
    if groups is None:
        mask = torch.zeros(rows.stop - rows.start, num_pairs, dtype=torch.bool, device=device)
        mask.diagonal(rows.start).fill_(True)
        return mask
    mask = groups[rows, None, 0] == groups[None, :, 0]
    for kind in range(1, groups.shape[1]):
        mask |= groups[rows, None, kind] == groups[None, :, kind]
    return mask


def num_duplicates(groups: Tensor) -> Tensor:
    """How many of the N pairs share each kind of identity with an earlier one, (G,)."""
    ordered = groups.sort(dim=0).values
    return (ordered[1:] == ordered[:-1]).sum(dim=0)


def num_repelling(num_pairs: int, groups: Tensor | None, rows: slice, device: torch.device) -> Tensor:
    """How many pairs repel each of some rows, float64 (rows,)."""
    if groups is None:
        return torch.full((rows.stop - rows.start,), num_pairs - 1.0, dtype=torch.float64, device=device)
    counts = [
        excluded_pairs(num_pairs, groups, strip, device).logical_not().sum(dim=1) for strip in strips(rows, num_pairs)
    ]
    return torch.cat([torch.zeros(0, dtype=torch.float64, device=device), *counts])


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x); torch's own takes x for it from 20 on, which is wrong by 2e-9."""
    return F.softplus(x, threshold=40.0)
