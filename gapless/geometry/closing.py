"""Closing the gap after training: maps fitted on one set of embeddings and applied to others.

Axis letters: N images, M texts, D dimensions, K components.
"""

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from gapless.errors import ConfigError, DataError
from gapless.geometry.procrustes import procrustes
from gapless.geometry.spectrum import Reading, principal_components
from gapless.geometry.transform import Transform

logger = logging.getLogger(__name__)

Side = Literal["image", "text"]
Fields = dict[str, Any]
"""Fields of a :class:`Transform`."""
LITTLE = 0.01
"""Share of the gap below which its orthogonal part counts as nothing."""


def close_gap(
    image_features: Tensor,
    text_features: Tensor,
    method: str = "mean",
    alpha: float = 1.0,
    epsilon: float = 0.05,
    reading: Reading = "cumulative",
    moved: Side = "text",
) -> Transform:
    """Fit a map that closes the gap.

    - ``mean``: each modality minus its mean (the *collapse* of connect-collapse-corrupt).
    - ``translate``: the moved modality plus alpha g, where g leads from its mean to the other's.
    - ``orthogonal``: plus alpha g', where g' = g - V V^T g is orthogonal to all differences of moved points
      (bug-or-feature, Eq. 11), so that nobody's nearest neighbour among them changes.
    - ``approximate``: the same with V of the leading components only (its Algorithm 1), for points that span the space.
    - ``procrustes``: the moved modality rotated onto the other; needs pairs.
    - ``standardise``: each dimension of each modality with mean 0 and deviation 1.

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (M, D).
        method: one of :data:`METHODS`, whose ``arguments`` say which of the following it uses.
        alpha: how much of the gap is closed; 1 is all, below 0 widens.
        epsilon: what approximate drops of the components.
        reading: how epsilon is read. cumulative: the trailing components that hold together at most this share of the
            variance are dropped; relative: those whose singular value is at most this share of the largest; absolute:
            those whose variance is at most this.
        moved: the modality that is retrieved, and moved.

    Raises:
        ConfigError: an unknown method, or numbers out of range.
        DataError: procrustes without pairs, different dimensions, a constant dimension under standardise.
    """
    if method not in METHODS:
        raise ConfigError(f"method={method} does not work, it must be one of {', '.join(METHODS)}")
    if not 0 <= epsilon < 1:
        raise ConfigError(f"epsilon={epsilon} does not work, it must be at least 0 and below 1")
    x, y = image_features.double(), text_features.double()
    if x.shape[1] != y.shape[1]:
        raise DataError(f"images have {x.shape[1]} dimensions, texts {y.shape[1]}")
    settings = {"alpha": alpha, "epsilon": epsilon, "reading": reading, "moved": moved}
    chosen = METHODS[method]
    return Transform(method, **chosen.fit(x, y, **{name: settings[name] for name in chosen.arguments}))


def _mean(x: Tensor, y: Tensor) -> Fields:
    return {"image_shift": _single(-x.mean(dim=0)), "text_shift": _single(-y.mean(dim=0))}


def _translate(x: Tensor, y: Tensor, alpha: float, moved: Side) -> Fields:
    return _translation(x, y, alpha, moved)


def _orthogonal(x: Tensor, y: Tensor, alpha: float, moved: Side) -> Fields:
    fields = _translation(x, y, alpha, moved, principal_components(_sides(x, y, moved)[0]))
    if fields["fit"]["share_of_gap"] < LITTLE:
        logger.warning(
            "orthogonal: the %ss span the space, %.2g of the gap is orthogonal to them and nothing is moved; "
            "method approximate (Algorithm 1 of bug-or-feature) is for this",
            moved,
            fields["fit"]["share_of_gap"],
        )
    return fields


def _approximate(x: Tensor, y: Tensor, alpha: float, epsilon: float, reading: Reading, moved: Side) -> Fields:
    components = principal_components(_sides(x, y, moved)[0], epsilon, reading)
    used = {"epsilon": epsilon, "reading": reading, "components": float(components.shape[1])}
    return _translation(x, y, alpha, moved, components, used)


def _procrustes(x: Tensor, y: Tensor, moved: Side) -> Fields:
    if len(x) != len(y):
        raise DataError(f"procrustes needs pairs, there are {len(x)} images and {len(y)} texts")
    return {f"{moved}_matrix": _single(procrustes(*_sides(x, y, moved)))}


def _standardise(x: Tensor, y: Tensor) -> Fields:
    (a, b), (c, d) = _standardised(x, "images"), _standardised(y, "texts")
    return {"image_matrix": a, "image_shift": b, "text_matrix": c, "text_shift": d}


def _standardised(features: Tensor, name: str) -> tuple[Tensor, Tensor]:
    mean, deviation = features.mean(dim=0), features.std(dim=0)
    constant = (deviation <= 1e-12).nonzero().flatten().tolist()
    if constant:
        raise DataError(f"standardise: dimension {constant[0]} of the {name} is constant ({len(constant)} are)")
    return _single(torch.diag(1 / deviation)), _single(-mean / deviation)


def _translation(
    x: Tensor,
    y: Tensor,
    alpha: float,
    moved: Side,
    components: Tensor | None = None,
    used: Mapping[str, float | str] = MappingProxyType({}),
) -> Fields:
    """Alpha times the gap, without its part along components (D, K)."""
    moving, still = _sides(x, y, moved)
    gap = still.mean(dim=0) - moving.mean(dim=0)
    direction = gap if components is None else gap - components @ (components.T @ gap)
    share = float(direction.norm() / gap.norm().clamp(min=1e-300))
    fit = {"alpha": alpha, "moved": moved, **used, "share_of_gap": share}
    return {f"{moved}_shift": _single(alpha * direction), "fit": fit}


def _sides(x: Tensor, y: Tensor, moved: Side) -> tuple[Tensor, Tensor]:
    """The modality that is moved, and the one that stays."""
    return (y, x) if moved == "text" else (x, y)


def _single(tensor: Tensor) -> Tensor:
    return tensor.float().contiguous()


@dataclass(frozen=True)
class ClosingMethod:
    """A way to close the gap."""

    fit: Callable[..., Fields]
    """Fields of the transform of images (N, D) and texts (M, D) in float64. Behind them it takes, by name, the
    arguments of :func:`close_gap` that it uses."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of :func:`close_gap` that change what is fitted; it ignores the others."""
        return tuple(inspect.signature(self.fit).parameters)[2:]


METHODS = {
    "mean": ClosingMethod(_mean),
    "translate": ClosingMethod(_translate),
    "orthogonal": ClosingMethod(_orthogonal),
    "approximate": ClosingMethod(_approximate),
    "procrustes": ClosingMethod(_procrustes),
    "standardise": ClosingMethod(_standardise),
}
