"""Affine maps of images and texts, and the files that hold them.

Axis letters: N images, M texts, D dimensions.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gapless.errors import DataError
from gapless.geometry.arrays import check_memory, find_arrays
from gapless.run_folder import write_whole

FIT_KEY = "told"
"""Key of :attr:`Transform.fit` in the metadata of files, which is older than the attribute's name."""


@dataclass(frozen=True)
class Transform:
    """Affine maps x -> x A + b of unit-norm images and texts; None stands for no matrix and no shift."""

    method: str
    image_matrix: Tensor | None = None
    image_shift: Tensor | None = None
    text_matrix: Tensor | None = None
    text_shift: Tensor | None = None
    fit: dict[str, float | str] = field(default_factory=dict)
    """How it was fitted: alpha, epsilon, share of the gap that is moved ..."""

    def image(self, features: Tensor, renormalise: bool = False) -> Tensor:
        """Moved images (N, D), rows of length 1 again if ``renormalise``."""
        return _moved(features, self.image_matrix, self.image_shift, renormalise)

    def text(self, features: Tensor, renormalise: bool = False) -> Tensor:
        """Moved texts (M, D), rows of length 1 again if ``renormalise``."""
        return _moved(features, self.text_matrix, self.text_shift, renormalise)

    def save(self, path: Path) -> None:
        """Write a .safetensors file whole.

        Raises:
            DataError: it cannot be written.
        """
        named = {n: t.contiguous() for n, t in self._tensors().items() if t is not None}
        with write_whole(path) as temporary:
            save_file(named, temporary, {"method": self.method, FIT_KEY: json.dumps(self.fit)})

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
                return cls(metadata["method"], fit=json.loads(metadata[FIT_KEY]), **tensors)
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
