"""The one place where training processes exchange features and numbers."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Newer releases of torch have other names for them, and warn of these.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


class Processes:
    """All processes of the run as the team that shares a loss (:class:`gapless.losses.distributed.Team`)."""

    @property
    def rank(self) -> int:
        return dist.get_rank() if dist.is_initialized() else 0

    @property
    def size(self) -> int:
        return dist.get_world_size() if dist.is_initialized() else 1

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes; backward, gradients are summed as well."""
        if self.size == 1:
            return tensor
        summed: Tensor = _Sum.apply(tensor)
        return summed

    def max(self, tensor: Tensor) -> Tensor:
        """Maximum over the processes, without gradient."""
        if self.size == 1:
            return tensor
        result = tensor.detach().clone()
        dist.all_reduce(result, op=dist.ReduceOp.MAX)
        return result


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def gather_rows(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """The rows of all processes in rank order, with gradient.

    Every process computes the whole loss from the result, or its share of it. The backward pass sums the gradients of
    all processes, so that after DDP's averaging parameters get the gradient of one process on the whole batch.

    Args:
        rows: (n, D) of this process.
        sizes: rows of each process, the same list everywhere.

    Returns:
        (sum of sizes, D).
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows, list(sizes))
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = rows.new_empty(len(sizes), *padded.shape)
        _all_gather(parts.flatten(0, 1), padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        padded = gradient.new_zeros(len(ctx.sizes), max(ctx.sizes), *gradient.shape[1:])
        for part, rows in zip(padded, torch.split(gradient, ctx.sizes), strict=True):
            part[: len(rows)] = rows
        mine = torch.empty_like(padded[0])
        _reduce_scatter(mine, padded.flatten(0, 1))
        return mine[: ctx.sizes[dist.get_rank()]], None


def exchange(numbers: Sequence[int], device: torch.device) -> list[list[int]]:
    """What every process says, by rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [list(numbers)]
    mine = torch.tensor(numbers, device=device)
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    return [part.tolist() for part in parts]
