"""Equally many forward passes on every process."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather

T = TypeVar("T")


def together(items: Iterable[T], blank: Callable[[], T]) -> Iterator[T]:
    """The items of this process, then blanks until no process has any left.

    Where parameters are sharded, a forward pass needs all processes: those who have less go along.
    """
    mine, state = iter(items), PartialState()
    while True:
        item = next(mine, None)
        here = torch.tensor([item is not None], device=state.device)
        if not bool(gather(here).any() if state.num_processes > 1 else here):
            return
        yield blank() if item is None else item
