"""Closing the gap after training: maps fitted on one set of embeddings and applied to others.

Axis letters: N images, M texts, D dimensions.
"""

import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gapless.errors import ConfigError, DataError
from gapless.geometry.arrays import check_memory, find_arrays
from gapless.geometry.procrustes import procrustes
from gapless.geometry.spectrum import principal_axes
from gapless.run_folder import write_whole

logger = logging.getLogger(__name__)

Method = Literal["mean", "translate", "orthogonal", "approximate", "procrustes", "standardise"]
METHODS: tuple[Method, ...] = ("mean", "translate", "orthogonal", "approximate", "procrustes", "standardise")
Reading = Literal["cumulative", "relative", "absolute"]
Side = Literal["image", "text"]
LITTLE = 0.01
"""Share of the gap below which its orthogonal part counts as nothing."""


@dataclass(frozen=True)
class Transform:
    """Affine maps x -> x A + b of unit-norm images and texts; None stands for no matrix and no shift."""

    method: str
    image_matrix: Tensor | None = None
    image_shift: Tensor | None = None
    text_matrix: Tensor | None = None
    text_shift: Tensor | None = None
    told: dict[str, float | str] = field(default_factory=dict)
    """How it was fitted: alpha, epsilon, share of the gap that is moved ..."""

    def image(self, features: Tensor, renormalise: bool = False) -> Tensor:
        """Moved images (N, D), rows of length 1 again if wanted."""
        return _moved(features, self.image_matrix, self.image_shift, renormalise)

    def text(self, features: Tensor, renormalise: bool = False) -> Tensor:
        """Moved texts (M, D), rows of length 1 again if wanted."""
        return _moved(features, self.text_matrix, self.text_shift, renormalise)

    def save(self, path: Path) -> None:
        """Write a .safetensors file whole.

        Raises:
            DataError: it cannot be written.
        """
        named = {n: t.contiguous() for n, t in self._tensors().items() if t is not None}
        with write_whole(path) as temporary:
            save_file(named, temporary, {"method": self.method, "told": json.dumps(self.told)})

    def _tensors(self) -> dict[str, Tensor | None]:
        return {
            "image_matrix": self.image_matrix,
            "image_shift": self.image_shift,
            "text_matrix": self.text_matrix,
            "text_shift": self.text_shift,
        }

    @classmethod
    def load(cls, path: Path) -> "Transform":
        """Read what :meth:`save` wrote.

        Raises:
            DataError: the file is missing or no transform.
        """
        stored = find_arrays(path)
        for array in stored.values():
            check_memory(path, math.prod(array.shape), array.dtype)
        try:
            if any(len(array.shape) != (2 if name.endswith("matrix") else 1) for name, array in stored.items()):
                raise ValueError(f"shapes {[array.shape for array in stored.values()]}")
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in stored}
                return cls(metadata["method"], told=json.loads(metadata["told"]), **tensors)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{path} is no transform of gapless close ({error})") from None


def _moved(features: Tensor, matrix: Tensor | None, shift: Tensor | None, renormalise: bool) -> Tensor:
    if matrix is None and shift is None:
        return features
    for part in (matrix, shift):
        if part is not None and part.shape[-1] != features.shape[-1]:
            raise DataError(f"the transform is for {part.shape[-1]} dimensions, the features have {features.shape[-1]}")
    moved = features if matrix is None else features @ matrix.to(features)
    moved = moved if shift is None else moved + shift.to(features)
    return F.normalize(moved, dim=-1) if renormalise else moved


def close_gap(
    image_features: Tensor,
    text_features: Tensor,
    method: Method = "mean",
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
        method: one of those.
        alpha: how much of the gap is closed; 1 is all, below 0 widens.
        epsilon: of approximate.
        reading: of epsilon. cumulative: the trailing components that hold together at most this share of the variance
            are dropped; relative: those whose singular value is at most this share of the largest; absolute: those
            whose variance is at most this.
        moved: the modality that is retrieved, and moved.

    Raises:
        ConfigError: an unknown method, or numbers out of range.
        DataError: procrustes without pairs, different dimensions, a constant dimension under standardise.
    """
    if method not in METHODS:
        raise ConfigError(f"--method: {method!r} is not one of {', '.join(METHODS)}")
    if not 0 <= epsilon < 1:
        raise ConfigError(f"--epsilon: {epsilon} does not work, it must be at least 0 and below 1")
    x, y = image_features.double(), text_features.double()
    if x.shape[1] != y.shape[1]:
        raise DataError(f"images have {x.shape[1]} dimensions, texts {y.shape[1]}")
    if method == "mean":
        return Transform(method, image_shift=_single(-x.mean(dim=0)), text_shift=_single(-y.mean(dim=0)))
    if method == "standardise":
        (a, b), (c, d) = _standardised(x, "images"), _standardised(y, "texts")
        return Transform(method, a, b, c, d)
    still, moving = (x, y) if moved == "text" else (y, x)
    if method == "procrustes":
        if len(x) != len(y):
            raise DataError(f"procrustes needs pairs, there are {len(x)} images and {len(y)} texts")
        return _one_side(moved, method, _single(procrustes(moving, still)), None, {})
    gap = still.mean(dim=0) - moving.mean(dim=0)
    told: dict[str, float | str] = {"alpha": alpha, "moved": moved}
    direction = gap
    if method == "orthogonal":
        components = principal_components(moving)
        direction = gap - components @ (components.T @ gap)
    elif method == "approximate":
        components = principal_components(moving, epsilon, reading)
        direction = gap - components @ (components.T @ gap)
        told |= {"epsilon": epsilon, "reading": reading, "components": float(components.shape[1])}
    told["share_of_gap"] = float(direction.norm() / gap.norm().clamp(min=1e-300))
    if method == "orthogonal" and float(told["share_of_gap"]) < LITTLE:
        logger.warning(
            "orthogonal: the %ss span the space, %.2g of the gap is orthogonal to them and nothing is moved; "
            "method approximate (Algorithm 1 of bug-or-feature) is for this",
            moved,
            told["share_of_gap"],
        )
    return _one_side(moved, method, None, _single(alpha * direction), told)


def principal_components(features: Tensor, epsilon: float = 0.0, reading: Reading = "cumulative") -> Tensor:
    """Orthonormal directions (D, K) of the centred rows, without those that epsilon drops or rounding alone makes.

    Args:
        features: (N, D) float64.
        epsilon: see :func:`close_gap`; 0 keeps every direction in which the points differ.
        reading: of epsilon.
    """
    n, d = features.shape
    if n > 4 * d:
        squares, vectors = principal_axes(features)
        singular = squares.sqrt()
        tiny = (max(n, d) * torch.finfo(torch.float64).eps) ** 0.5  # squaring halves the digits
    else:
        _, singular, rows = torch.linalg.svd(features - features.mean(dim=0), full_matrices=False)
        vectors, tiny = rows.T, max(n, d) * torch.finfo(torch.float64).eps
    kept = singular > tiny * singular[0]
    if epsilon:
        variance = singular.square() / max(1, n - 1)
        if reading == "cumulative":
            # Fewest leading components with at least 1 - epsilon of the variance.
            held = variance.cumsum(0) / variance.sum()
            kept &= torch.arange(len(held)) <= int((held < 1 - epsilon).sum())
        elif reading == "relative":
            kept &= singular > epsilon * singular[0]
        else:
            kept &= variance > epsilon
    return vectors[:, kept]


def _standardised(features: Tensor, name: str) -> tuple[Tensor, Tensor]:
    mean, deviation = features.mean(dim=0), features.std(dim=0)
    constant = (deviation <= 1e-12).nonzero().flatten().tolist()
    if constant:
        raise DataError(f"standardise: dimension {constant[0]} of the {name} is constant ({len(constant)} are)")
    return _single(torch.diag(1 / deviation)), _single(-mean / deviation)


def _one_side(
    moved: Side, method: str, matrix: Tensor | None, shift: Tensor | None, told: dict[str, float | str]
) -> Transform:
    if moved == "text":
        return Transform(method, text_matrix=matrix, text_shift=shift, told=told)
    return Transform(method, image_matrix=matrix, image_shift=shift, told=told)


def _single(tensor: Tensor) -> Tensor:
    return tensor.float().contiguous()
