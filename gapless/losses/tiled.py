"""Sums and log-sum-exps over all N^2 similarities and their exact gradients, without an N x N matrix.

Similarities are formed in strips of rows, and again in the backward pass; only the first strips, a bounded number,
are kept. Each function can be given a part of the work, so that processes share it; :mod:`gapless.losses.distributed`
puts the parts together.
Axis letters: N pairs, n rows of this part, D dimensions, G kinds of identity.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gapless.losses.heads import Head, gaussian_kernel
from gapless.losses.pairs import EXCLUDED, excluded_pairs

STRIP_ELEMENTS = 2**21
"""Similarities of a strip: 8 MiB in float32. It is half that of :mod:`gapless.losses.strips`, as three are in use."""
KEPT_ELEMENTS = 2**24
"""Similarities kept from the forward to the backward pass, up to KEPT_PAIRS pairs: 64 MiB in float32."""
KEPT_PAIRS = 2**12
"""With more pairs fewer are kept, as the gradients of the features need the memory."""
MIN_STRIPS = 8
"""A symmetric matrix is cut at least so often: of the blocks on its diagonal both halves are computed."""


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
        memory, spare = strips.new_buffers(2)
        if any(ctx.needs_input_grad):
            strips.keep()
        for index, strip in enumerate(strips.slices):
            s = strips.similarities(index, memory)
            e = spare[: len(s)]
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
        memory, spare, weights = ctx.strips.new_buffers(3)
        for index, strip in enumerate(ctx.strips.slices):
            s = ctx.strips.similarities(index, memory)
            weight = weights[: len(s)].zero_()
            for head in ctx.heads:
                head.weigh(strip, s, spare[: len(s)], weight)
            gx[strip].addmm_(weight, y)
            gy.addmm_(weight.T, x[strip])
        ctx.strips.kept = None  # a second backward pass computes them again
        return gx, gy, None, None, None, *[head.gradient for head in ctx.heads]


class _Strips:
    """Strips of the similarities x y^T, of which the first can be kept when they are computed.

    Memory is taken in few large pieces: strips made and dropped one by one would leave the heap full of holes.
    """

    def __init__(self, x: Tensor, y: Tensor, rows: slice, groups: Tensor | None) -> None:
        self.x, self.y, self.groups = x, y, groups
        self.height = min(max(1, STRIP_ELEMENTS // len(y)), max(1, rows.stop - rows.start))
        bounds = range(rows.start, rows.stop, self.height)
        self.slices = [slice(a, min(a + self.height, rows.stop)) for a in bounds]
        self.kept: Tensor | None = None
        self.num_kept = 0

    def new_buffers(self, count: int) -> Tensor:
        """Memory of the shape of ``count`` strips."""
        return self.x.new_empty(count, self.height, len(self.y))

    def keep(self) -> None:
        """Keep the first strips from now on."""
        room = KEPT_ELEMENTS * min(1.0, KEPT_PAIRS / len(self.y)) / (self.height * len(self.y))
        self.kept = self.new_buffers(min(len(self.slices), int(room)))

    def similarities(self, index: int, memory: Tensor) -> Tensor:
        """A strip, as kept or computed in ``memory``."""
        strip = self.slices[index]
        size = strip.stop - strip.start
        if self.kept is not None and index < len(self.kept):
            if index < self.num_kept:
                return self.kept[index, :size]
            self.num_kept, memory = index + 1, self.kept[index]
        s = torch.mm(self.x[strip], self.y.T, out=memory[:size])
        if self.groups is None:
            s.diagonal(strip.start).fill_(EXCLUDED)
        else:
            s.masked_fill_(excluded_pairs(len(self.y), self.groups, strip, s.device), EXCLUDED)
        return s


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
        strips = _triangle(len(x), part, parts)
        memory = x.new_empty(max((s.stop - s.start) * (len(x) - s.start) for s in strips) if strips else 0)
        for strip in strips:
            height, width = strip.stop - strip.start, len(x) - strip.start
            s = torch.mm(x[strip], x[strip.start :].T, out=memory[: height * width].view(height, width))
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
