"""Which process this is."""

from dataclasses import dataclass

from accelerate import PartialState
from typing_extensions import Self


@dataclass(frozen=True)
class Place:
    """This process among all."""

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls) -> Self:
        """Of the process that calls, as accelerate knows it."""
        state = PartialState()
        return cls(state.process_index, state.num_processes)

    def chunk(self, n: int) -> slice:
        """This process's contiguous part of n rows; parts differ by at most one row."""
        return slice(n * self.rank // self.world, n * (self.rank + 1) // self.world)
