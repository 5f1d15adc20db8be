"""WiSE-FT: models between a base and its fine-tuned successor (Wortsman et al. 2022)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gapless.errors import DataError
from gapless.models import ClipModel


@torch.no_grad()
def interpolate_weights(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) * base + alpha * tuned; buffers that are not floating are those of ``tuned``.

    Args:
        base: weights at alpha 0.
        tuned: weights at alpha 1.
        alpha: any number; outside [0, 1] it extrapolates.

    Raises:
        DataError: models of different architecture.
    """
    odd = [name for name in sorted(set(base) | set(tuned)) if name not in base or name not in tuned]
    odd += [name for name in sorted(set(base) & set(tuned)) if base[name].shape != tuned[name].shape]
    if odd:
        raise DataError(f"interpolate: the two models differ in {odd[0]} ({len(odd)} weights)")
    return {n: torch.lerp(base[n], t, alpha) if t.is_floating_point() else t for n, t in tuned.items()}


def set_between(model: ClipModel, base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> None:
    """Give a model the weights between two others."""
    model.clip.load_state_dict(interpolate_weights(base, tuned, alpha))
