"""Loader processes, and the signals that reach them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from gapless.signals import held_back, obey_parent_only


class Loader:
    """A DataLoader whose processes leave signals to this one.

    Args:
        dataset: what is loaded.
        workers: loader processes.
        arguments: of DataLoader.
    """

    def __init__(self, dataset: Any, workers: int, **arguments: Any) -> None:
        # With a generator of its own the loader leaves the global one alone, which a resumed run relies on.
        generator = torch.Generator().manual_seed(0)
        self.batches: DataLoader[Any] = DataLoader(
            dataset, num_workers=workers, generator=generator, worker_init_fn=obey_parent_only, **arguments
        )

    def __iter__(self) -> Iterator[Any]:
        with held_back():
            return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)
