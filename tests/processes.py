"""Real gloo processes for tests, forked from a server that has imported everything once."""

import multiprocessing
import os
import pickle
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["gapless.cli", "gapless.train.doctor", "tests.processes"])


def run_processes(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call ``function(*arguments)`` in processes joined by gloo; their results (lists and numbers) by rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        passed = (world, port, function, arguments, folder)
        mp.start_processes(_enter, passed, nprocs=world, start_method="forkserver")
        return [pickle.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(world)]


def _enter(rank: int, world: int, port: int, function: Callable[..., Any], arguments: Any, folder: str) -> None:
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
    (Path(folder) / str(rank)).write_bytes(pickle.dumps(function(*arguments)))
    dist.destroy_process_group()
