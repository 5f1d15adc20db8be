"""The one place where training processes exchange features and numbers."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """The rows of all processes in rank order, with gradient.

    Every process computes the whole loss from the result. The backward pass sums the gradients of all processes, so
    that after DDP's averaging parameters get the gradient of one process on the whole batch, whatever part of the
    loss each process computed.

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
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        start = sum(ctx.sizes[: dist.get_rank()])
        return total[start : start + ctx.sizes[dist.get_rank()]], None


def exchange(numbers: Sequence[int], device: torch.device) -> list[list[int]]:
    """What every process says, by rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [list(numbers)]
    mine = torch.tensor(numbers, device=device)
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    return [part.tolist() for part in parts]
