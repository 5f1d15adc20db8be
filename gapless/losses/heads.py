"""What is summed over the pairs of an image and another pair's text: accumulated strip by strip, with its gradient.

Axis letters: N pairs, n rows of a part.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from gapless.losses.pairs import softplus

LEAST_SIMILARITY = -2.0
"""Below every similarity of unit-norm features."""
LEAST_MASS = 1e-30
"""In place of a sum over nothing."""


class Head(Protocol):
    """Something that is summed over the pairs (i, j) of an image and another pair's text.

    In all methods s is a strip of similarities, EXCLUDED where a pair does not repel, and e is memory of its shape.
    """

    num_results: int

    @property
    def parameter(self) -> Tensor | None:
        """What it has a gradient for, beside the similarities."""

    @property
    def gradient(self) -> Tensor | None:
        """That gradient, after all strips were weighed."""

    def start(self, x: Tensor, y: Tensor, rows: slice) -> None:
        """Begin a pass over some rows of x y^T."""

    def add(self, strip: slice, s: Tensor, e: Tensor) -> None:
        """Take in a strip."""

    def results(self) -> list[Tensor]:
        """What the rows gave."""

    def start_backward(self, upstream: Sequence[Tensor]) -> Tensor | None:
        """Take in the gradient of the results; returns that of the matching pairs' similarities (N,), if any."""

    def weigh(self, strip: slice, s: Tensor, e: Tensor, weight: Tensor) -> None:
        """Add the gradient of the similarities of a strip to ``weight``."""


class SoftmaxHead:
    r"""Log-sum-exps over what repels each image and each text, relative to the matching pair.

    .. math:: a_i = \log \sum_j e^{s (x_i y_j - x_i y_i)}, \quad b_j = \log \sum_i e^{s (x_i y_j - x_j y_j)}

    CLIP's loss is half the mean of softplus(a) and softplus(b), exact even where it nearly vanishes. Results: a (n,)
    of the rows, and b (N,) over the rows; negligible but finite where nothing repels.

    Args:
        scale: s, positive.
    """

    num_results = 2

    def __init__(self, scale: Tensor) -> None:
        self.parameter = scale
        self.scale = scale.item()
        self.gradient = torch.zeros_like(scale)

    def start(self, x: Tensor, y: Tensor, rows: slice) -> None:
        self.rows, self.matching = rows, (x * y).sum(dim=1) * self.scale
        self.row_max, self.row_mass = torch.empty_like(self.matching), torch.empty_like(self.matching)
        self.column_max = torch.full_like(self.matching, LEAST_SIMILARITY * self.scale)
        self.column_mass = torch.zeros_like(self.matching)

    def add(self, strip: slice, s: Tensor, e: Tensor) -> None:
        self.row_max[strip] = s.amax(dim=1).clamp(min=LEAST_SIMILARITY) * self.scale
        self.row_mass[strip] = self._exp(s, self.row_max[strip, None], e).sum(dim=1)
        column_max = torch.maximum(self.column_max, s.amax(dim=0) * self.scale)
        self.column_mass.mul_((self.column_max - column_max).exp_()).add_(self._exp(s, column_max, e).sum(dim=0))
        self.column_max = column_max

    def _exp(self, s: Tensor, subtracted: Tensor, out: Tensor) -> Tensor:
        return torch.add(-subtracted, s, alpha=self.scale, out=out).exp_()

    def results(self) -> list[Tensor]:
        self.row_mass.clamp_(min=LEAST_MASS)
        self.column_mass.clamp_(min=LEAST_MASS)
        a = self.row_max - self.matching + self.row_mass.log()
        return [a[self.rows], self.column_max - self.matching + self.column_mass.log()]

    def start_backward(self, upstream: Sequence[Tensor]) -> Tensor:
        to_matching = -upstream[1]
        to_matching[self.rows] -= upstream[0]
        self.gradient = torch.dot(to_matching, self.matching) / self.scale
        # Maximum and mass stay apart: the logarithm of the mass added to the maximum would lose digits.
        self.to_rows = upstream[0] / self.row_mass[self.rows] * self.scale
        self.to_columns = upstream[1] / self.column_mass * self.scale
        return to_matching * self.scale

    def weigh(self, strip: slice, s: Tensor, e: Tensor, weight: Tensor) -> None:
        own = slice(strip.start - self.rows.start, strip.stop - self.rows.start)
        # A fixed temperature spares two passes.
        before = _inner(weight, s) if self.parameter.requires_grad else None
        weight.addcmul_(self._exp(s, self.row_max[strip, None], e), self.to_rows[own, None])
        weight.addcmul_(self._exp(s, self.column_max, e), self.to_columns)
        if before is not None:
            self.gradient = self.gradient + (_inner(weight, s) - before) / self.scale


class KernelHead:
    """Sum of exp(-t |x_i - y_j|^2) for unit-norm rows."""

    num_results = 1
    parameter = None
    gradient = None

    def __init__(self, t: float) -> None:
        self.t = t

    def start(self, x: Tensor, y: Tensor, rows: slice) -> None:
        self.total = x.new_zeros(())

    def add(self, strip: slice, s: Tensor, e: Tensor) -> None:
        self.total += gaussian_kernel(s, self.t, e).sum()

    def results(self) -> list[Tensor]:
        return [self.total]

    def start_backward(self, upstream: Sequence[Tensor]) -> None:
        (self.to_total,) = upstream

    def weigh(self, strip: slice, s: Tensor, e: Tensor, weight: Tensor) -> None:
        weight.add_(gaussian_kernel(s, self.t, e).mul_(2 * self.t * self.to_total))


class SigmoidHead:
    """Sum of softplus(s x_i y_j + b), SigLIP's repulsion.

    Args:
        scale_and_bias: (2,), s and b.
    """

    num_results = 1

    def __init__(self, scale_and_bias: Tensor) -> None:
        self.parameter = scale_and_bias
        self.scale, self.bias = scale_and_bias.tolist()
        self.gradient = torch.zeros_like(scale_and_bias)

    def start(self, x: Tensor, y: Tensor, rows: slice) -> None:
        self.total = x.new_zeros(())

    def add(self, strip: slice, s: Tensor, e: Tensor) -> None:
        self.total += softplus(torch.add(s.new_tensor(self.bias), s, alpha=self.scale, out=e)).sum()

    def results(self) -> list[Tensor]:
        return [self.total]

    def start_backward(self, upstream: Sequence[Tensor]) -> None:
        (self.to_total,) = upstream
        self.gradient = torch.zeros_like(self.parameter)

    def weigh(self, strip: slice, s: Tensor, e: Tensor, weight: Tensor) -> None:
        slope = torch.add(s.new_tensor(self.bias), s, alpha=self.scale, out=e).sigmoid_().mul_(self.to_total)
        self.gradient = self.gradient + torch.stack([_inner(slope, s), slope.sum()])
        weight.add_(slope, alpha=self.scale)


def _inner(weight: Tensor, s: Tensor) -> Tensor:
    return torch.dot(weight.view(-1), s.view(-1))


def gaussian_kernel(s: Tensor, t: float, out: Tensor | None = None) -> Tensor:
    """exp(-t |x - y|^2) of the similarity s of unit-norm x and y."""
    return torch.add(s.new_tensor(-2 * t), s, alpha=2 * t, out=out).exp_()
