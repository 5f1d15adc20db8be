"""Collapse and corrupt: what makes embeddings of one modality do for another (connect-collapse-corrupt, Sec. 4).

Axis letters: N rows, D dimensions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch.nn.functional as F
from torch import Tensor

from gapless.errors import DataError
from gapless.geometry.spectrum import principal_axes


def collapse(embedding: Tensor, mean: Tensor) -> Tensor:
    """Unit-norm (N, D) minus the mean (D,) of the modality's training embeddings: the gap is gone."""
    return F.normalize(embedding, dim=-1) - mean


def corrupt(embedding: Tensor, noise: Tensor, direction: Tensor | None = None) -> Tensor:
    """(N, D) plus noise; with a direction (D,) without the part of the noise along it (Appendix H, span noise only)."""
    if direction is not None:
        unit = F.normalize(direction, dim=0)
        noise = noise - (noise @ unit)[:, None] * unit
    return embedding + noise


@dataclass(frozen=True)
class Preparation:
    """How embeddings become a decoder's input: normalise, minus the mean, plus noise in training, normalise again."""

    collapse: bool = True
    noise: float = 0.0
    """Standard deviation of a component, sigma; in training only."""
    span_of: tuple[str, str] | None = None
    """Two modalities along whose difference of means there is no noise."""
    renormalise: bool = True
    means: Mapping[str, Tensor] = field(default_factory=dict)
    """(D,) by modality, of training embeddings."""

    def __call__(self, embedding: Tensor, modality: str, noise: Tensor | None = None) -> Tensor:
        """Prepare the embeddings of one modality.

        Args:
            embedding: (N, D), not changed.
            modality: which mean is subtracted.
            noise: standard normal (N, D), in training.

        Raises:
            DataError: no mean of the modality.
        """
        prepared = F.normalize(embedding.float(), dim=-1)
        if self.collapse:
            prepared = collapse(prepared, self._mean(modality).to(prepared))
        if noise is not None and self.noise:
            direction = self.direction
            span = None if direction is None else direction.to(prepared)
            prepared = corrupt(prepared, self.noise * noise, span)
        return F.normalize(prepared, dim=-1) if self.renormalise else prepared

    def with_mean(self, modality: str, mean: Tensor) -> "Preparation":
        """The same for one more modality."""
        return replace(self, means=dict(self.means) | {modality: mean})

    @property
    def direction(self) -> Tensor | None:
        """The gap that noise leaves alone, (D,)."""
        if self.span_of is None:
            return None
        return self._mean(self.span_of[0]) - self._mean(self.span_of[1])

    def _mean(self, modality: str) -> Tensor:
        if modality not in self.means:
            known = ", ".join(sorted(self.means)) or "none"
            raise DataError(f"there is no mean of modality {modality} (of: {known}), which collapse subtracts")
        return self.means[modality]


def orthogonal_shift(embedding: Tensor, length: float) -> Tensor:
    """A constant vector (D,) of a length, along the direction in which the rows (N, D) vary least.

    What the gap-distance test adds (Appendix G, Table 6): a constant that is orthogonal to the span.
    """
    _, directions = principal_axes(embedding)
    return length * directions[:, -1].to(embedding)
