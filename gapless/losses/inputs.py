"""What all terms of a batch are computed from.

Axis letters: N pairs, D dimensions, G kinds of identity.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gapless.errors import NonFiniteError

LENGTH_TOLERANCE = 0.02
"""How far from 1 a feature's length may be; bfloat16 rounds to 0.004."""


@dataclass(frozen=True)
class Inputs:
    """The features of a global batch and the temperature."""

    x: Tensor
    """Unit-norm image features (N, D), float32 or float64."""
    y: Tensor
    """Unit-norm text features (N, D)."""
    scale: Tensor
    """Scalar, the inverse temperature."""
    bias: Tensor
    """Scalar, of siglip."""
    groups: Tensor | None
    """int64 (N, G): pairs that share a number do not repel each other."""

    def by_name(self) -> dict[str, Tensor | None]:
        """As the parameters of loss functions are called."""
        return {
            "image_features": self.x,
            "text_features": self.y,
            "logit_scale": self.scale,
            "logit_bias": self.bias,
            "groups": self.groups,
        }


@dataclass(frozen=True)
class Knobs:
    """Settings of the terms."""

    t: float = 2.0
    """Of the Gaussian kernel."""
    alpha: float = 2.0
    """Power of the distance in align."""
    hardness: float = 0.0
    """Of clip's negatives."""

    def by_name(self) -> dict[str, float]:
        """As the parameters of loss functions are called."""
        return {"t": self.t, "alpha": self.alpha, "hardness": self.hardness}


def check_features(image_features: Tensor, text_features: Tensor, terms: str) -> None:
    """Refuse what would give a wrong loss or nan in silence.

    Args:
        image_features: (N, D).
        text_features: (N, D).
        terms: named in the message.

    Raises:
        ValueError: shapes that do not match, or rows that are not unit-norm.
        NonFiniteError: rows that are not finite, or all zero.
    """
    if image_features.shape != text_features.shape or image_features.ndim != 2:
        raise ValueError(
            f"{terms}: image_features {tuple(image_features.shape)} and text_features {tuple(text_features.shape)} "
            "must be two (N, D) matrices of one shape"
        )
    lengths = torch.stack([f.detach().norm(dim=1).float() for f in (image_features, text_features)])
    if bool(((lengths - 1).abs() <= LENGTH_TOLERANCE).all()):
        return
    wrong = ((lengths - 1).abs() > LENGTH_TOLERANCE) | lengths.isnan()
    kind, row = wrong.nonzero()[0].tolist()
    name, length = ("image_features", "text_features")[kind], lengths[kind, row].item()
    if length == 0 or not lengths[kind, row].isfinite():
        state = "is all zero, it has no direction" if length == 0 else "is not finite"
        raise NonFiniteError(f"{terms}: row {row} of {name} {state}")
    raise ValueError(f"{terms}: row {row} of {name} has length {length:.3g}, normalise the features first")
