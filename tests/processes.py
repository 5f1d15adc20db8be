"""Real gloo processes for tests."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_processes(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call ``function(*arguments)`` in processes joined by gloo; their results by rank (tensors or plain values)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    results = context.Manager().dict()
    mp.spawn(_enter, (world, port, function, arguments, results), nprocs=world)
    return [results[rank] for rank in range(world)]


def _enter(rank: int, world: int, port: int, function: Callable[..., Any], arguments: Any, results: Any) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "ACCELERATE_USE_CPU": "true",
    }
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    result = function(*arguments)
    results[rank] = {k: v.tolist() for k, v in result.items()} if isinstance(result, dict) else result
    dist.destroy_process_group()
