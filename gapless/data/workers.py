"""Loader processes, and the signals that reach them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from gapless.errors import GaplessError
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
            batches = iter(self.batches)
        return _in_one_line(batches)

    def __len__(self) -> int:
        return len(self.batches)


def _in_one_line(batches: Iterator[Any]) -> Iterator[Any]:
    """What a loader gives; an error that a user can act on without the traceback that its process wrapped it in."""
    try:
        yield from batches
    except GaplessError as error:
        wrapped = str(error).startswith("Caught ")
        raise (type(error)(str(error).strip().rpartition("\n")[2].partition(": ")[2]) if wrapped else error) from None
