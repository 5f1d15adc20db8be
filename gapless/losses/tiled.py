"""Sums and log-sum-exps over all N^2 similarities and their exact gradients, without an N x N matrix.

Similarities are formed in strips of rows, and again in the backward pass; only the first strips, a bounded number,
are kept. Each function can be given a part of the work, so that processes share it; :mod:`gapless.losses.shared`
puts the parts together.
Axis letters: N pairs, n rows of this part, D dimensions, G kinds of identity.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from gapless.losses.pairs import EXCLUDED, excluded_pairs, softplus

STRIP_ELEMENTS = 2**21
"""Similarities of a strip: 8 MiB in float32."""
KEPT_ELEMENTS = 2**24
"""Similarities kept from the forward to the backward pass, up to KEPT_PAIRS pairs: 64 MiB in float32."""
KEPT_PAIRS = 2**12
"""With more pairs fewer are kept, as the gradients of the features need the memory."""
MIN_STRIPS = 8
"""A symmetric matrix is cut at least so often: of the blocks on its diagonal both halves are computed."""
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

    def weigh(self, strip: slice, s: Tensor, e: Tensor) -> Tensor:
        """The gradient of the similarities of a strip."""


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

    def weigh(self, strip: slice, s: Tensor, e: Tensor) -> Tensor:
        own = slice(strip.start - self.rows.start, strip.stop - self.rows.start)
        weight = self._exp(s, self.row_max[strip, None], torch.empty_like(e)).mul_(self.to_rows[own, None])
        weight.addcmul_(self._exp(s, self.column_max, e), self.to_columns)
        if self.parameter.requires_grad:
            self.gradient = self.gradient + torch.dot(weight.view(-1), s.view(-1)) / self.scale
        return weight


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

    def weigh(self, strip: slice, s: Tensor, e: Tensor) -> Tensor:
        return gaussian_kernel(s, self.t, e).mul_(2 * self.t * self.to_total)


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

    def weigh(self, strip: slice, s: Tensor, e: Tensor) -> Tensor:
        weight = torch.add(s.new_tensor(self.bias), s, alpha=self.scale, out=e).sigmoid_().mul_(self.to_total)
        self.gradient = self.gradient + torch.stack([torch.dot(weight.view(-1), s.reshape(-1)), weight.sum()])
        return weight.mul_(self.scale)


def gaussian_kernel(s: Tensor, t: float, out: Tensor | None = None) -> Tensor:
    """exp(-t |x - y|^2) of the similarity s of unit-norm x and y."""
    return torch.add(s.new_tensor(-2 * t), s, alpha=2 * t, out=out).exp_()


def over_cross_pairs(
    x: Tensor, y: Tensor, heads: Sequence[Head], rows: slice, groups: Tensor | None = None
) -> list[list[Tensor]]:
    """What heads sum over the pairs of an image and a text that repel each other: neither matching nor duplicates.

    One pass over the similarities serves all heads, forward and backward.

    Args:
        x: (N, D).
        y: (N, D).
        heads: new ones for each call.
        rows: of x that this part handles.
        groups: int64 (N, G), see :func:`excluded_pairs`.

    Returns:
        The results of each head.
    """
    if not heads:
        return []
    flat = iter(_OverCrossPairs.apply(x, y, heads, rows, groups, *[head.parameter for head in heads]))
    return [[next(flat) for _ in range(head.num_results)] for head in heads]


class _OverCrossPairs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, heads: Sequence[Head], rows: slice, groups: Tensor | None, *_: Tensor | None
    ) -> tuple[Tensor, ...]:
        strips = _Strips(x, y, rows, groups)
        for head in heads:
            head.start(x, y, rows)
        keep = any(ctx.needs_input_grad)
        for index, strip in enumerate(strips.slices):
            s, e = strips.similarities(index, keep)
            for head in heads:
                head.add(strip, s, e)
        ctx.save_for_backward(x, y)
        ctx.strips, ctx.heads = strips, heads
        return tuple(result for head in heads for result in head.results())

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        gx, gy, given = torch.zeros_like(x), torch.zeros_like(y), iter(upstream)
        for head in ctx.heads:
            to_matching = head.start_backward([next(given) for _ in range(head.num_results)])
            if to_matching is not None:
                gx.addcmul_(y, to_matching[:, None])
                gy.addcmul_(x, to_matching[:, None])
        for index, strip in enumerate(ctx.strips.slices):
            s, e = ctx.strips.similarities(index)
            weight = ctx.heads[0].weigh(strip, s, e)
            for head in ctx.heads[1:]:
                weight.add_(head.weigh(strip, s, e))
            gx[strip].addmm_(weight, y)
            gy.addmm_(weight.T, x[strip])
        ctx.strips.kept.clear()  # a second backward pass computes them again
        return gx, gy, None, None, None, *[head.gradient for head in ctx.heads]


class _Strips:
    """Strips of the similarities x y^T, of which the first are kept when they are computed."""

    def __init__(self, x: Tensor, y: Tensor, rows: slice, groups: Tensor | None) -> None:
        self.x, self.y, self.groups = x, y, groups
        height = min(max(1, STRIP_ELEMENTS // len(y)), max(1, rows.stop - rows.start))
        self.slices = [slice(a, min(a + height, rows.stop)) for a in range(rows.start, rows.stop, height)]
        self.kept: list[Tensor] = []
        kept = KEPT_ELEMENTS * min(1.0, KEPT_PAIRS / len(y))
        self.room = min(len(self.slices), int(kept / (height * len(y))))
        self.memory, self.spare = x.new_empty(2, height, len(y))

    def similarities(self, index: int, keep: bool = False) -> tuple[Tensor, Tensor]:
        """A strip and memory of its shape; either is overwritten by the next call."""
        strip = self.slices[index]
        size = strip.stop - strip.start
        if index < len(self.kept):
            return self.kept[index], self.spare[:size]
        keep = keep and index < self.room
        s = torch.mm(self.x[strip], self.y.T, out=None if keep else self.memory[:size])
        if self.groups is None:
            s.diagonal(strip.start).fill_(EXCLUDED)
        else:
            s.masked_fill_(excluded_pairs(len(self.y), self.groups, strip, s.device), EXCLUDED)
        if keep:
            self.kept.append(s)
        return s, self.spare[:size]


def kernel_sum(x: Tensor, t: float, groups: Tensor | None = None, part: int = 0, parts: int = 1) -> Tensor:
    """Sum of exp(-t |x_i - x_j|^2) over the pairs i < j that repel each other.

    The matrix is symmetric: its upper half is computed, and its gradient in the same pass.

    Args:
        x: unit-norm (N, D).
        t: of the kernel.
        groups: int64 (N, G), see :func:`excluded_pairs`.
        part: which of the parts, of about equal work.
        parts: how many.
    """
    total: Tensor = _KernelSum.apply(x, t, groups, part, parts)
    return total


class _KernelSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, t: float, groups: Tensor | None, part: int, parts: int) -> Tensor:
        total, gradient = x.new_zeros(()), torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        for strip in _triangle(len(x), part, parts):
            height = strip.stop - strip.start
            s = x[strip] @ x[strip.start :].T
            square, rest = s[:, :height], s[:, height:]
            if groups is None:
                square.diagonal().fill_(EXCLUDED)
            else:
                s.masked_fill_(excluded_pairs(len(x), groups, strip, x.device)[:, strip.start :], EXCLUDED)
            gaussian_kernel(s, t, out=s)
            total += square.sum() / 2 + rest.sum()
            if gradient is not None:
                gradient[strip].addmm_(s, x[strip.start :])
                gradient[strip.stop :].addmm_(rest.T, x[strip])
        ctx.save_for_backward(gradient)
        ctx.t = t
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * (2 * ctx.t * upstream[0]), None, None, None, None


def _triangle(n: int, part: int, parts: int) -> list[slice]:
    """The strips of an upper triangle that a part computes: one from the wide end for each from the narrow end."""
    count = max(MIN_STRIPS, -(-n * n // STRIP_ELEMENTS))
    count = -(-count // (2 * parts)) * 2 * parts
    bounds = [n * k // count for k in range(count + 1)]
    mine = (k for k in range(count) if k % (2 * parts) in (part, 2 * parts - 1 - part))
    return [slice(bounds[k], bounds[k + 1]) for k in mine if bounds[k + 1] > bounds[k]]
